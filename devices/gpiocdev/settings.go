package gpiocdev

import (
	"fmt"
	"time"

	"periph.io/x/conn/v3/gpio"
)

// ParseBias understands the key bias; why says what is wrong with it.
func ParseBias(s string) (pull gpio.Pull, why string) {
	switch s {
	case "", "as-is":
		return gpio.PullNoChange, ""
	case "pull-up":
		return gpio.PullUp, ""
	case "pull-down":
		return gpio.PullDown, ""
	case "off":
		return gpio.Float, ""
	}
	return gpio.PullNoChange, fmt.Sprintf(`want "as-is", "pull-up", "pull-down" or "off", not %q`, s)
}

// CheckDebounce says what is wrong with the key debounce, or "".
func CheckDebounce(d time.Duration) string {
	if d < 0 || d > 0 && d < 10*time.Microsecond || d > 10*time.Second {
		return fmt.Sprintf(`want "0s" (each edge counts) or 10us to 10s, not %v`, d)
	}
	return ""
}
