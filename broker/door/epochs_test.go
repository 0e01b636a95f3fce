package door

const (
	epochA = "00000000000000aa"
	epochB = "00000000000000bb"
)
