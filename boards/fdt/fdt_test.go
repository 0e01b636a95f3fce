package fdt

import (
	"encoding/binary"
	"maps"
	"reflect"
	"slices"
	"strings"
	"testing"
	"testing/fstest"
)

// flatten writes a tree as Parse reads it.
func flatten(root *Node) []byte {
	var structs, texts []byte
	u32 := func(v uint32) { structs = binary.BigEndian.AppendUint32(structs, v) }
	pad := func() {
		for len(structs)%4 != 0 {
			structs = append(structs, 0)
		}
	}
	var node func(n *Node)
	node = func(n *Node) {
		u32(beginNode)
		structs = append(structs, n.Name+"\x00"...)
		pad()
		for _, name := range slices.Sorted(maps.Keys(n.Props)) {
			u32(property)
			u32(uint32(len(n.Props[name])))
			u32(uint32(len(texts)))
			texts = append(texts, name+"\x00"...)
			structs = append(structs, n.Props[name]...)
			pad()
		}
		for _, c := range n.Children {
			node(c)
		}
		u32(endNode)
	}
	node(root)
	u32(end)
	var head []byte
	s, x := uint32(len(structs)), uint32(len(texts))
	for _, v := range []uint32{magic, headerSize + s + x, headerSize, headerSize + s, headerSize, 17, 16, 0, x, s} {
		head = binary.BigEndian.AppendUint32(head, v)
	}
	return slices.Concat(head, structs, texts)
}

func node(name string, props map[string]string, children ...*Node) *Node {
	n := &Node{Name: name, Props: map[string][]byte{}, Children: children}
	for k, v := range props {
		n.Props[k] = []byte(v)
	}
	return n
}

func sample() *Node {
	return node("", map[string]string{"model": "Raspberry Pi 4 Model B\x00", "compatible": "raspberrypi,4-model-b\x00brcm,bcm2711\x00", "empty": ""},
		node("aliases", map[string]string{"uart0": "/soc/serial@7e201000\x00"}),
		node("soc", nil,
			node("serial@7e201000", map[string]string{"status": "disabled\x00", "phandle": "\x00\x00\x00\x07", "reg": "\x7e\x20\x10\x00\x00\x00\x02\x00"}),
			node("gpio", map[string]string{"phandle": "\x00\x00\x00\x09"})),
		node("__symbols__", map[string]string{"uart0": "/soc/serial@7e201000\x00", "gpio": "/soc/gpio\x00"}),
	)
}

func TestParse(t *testing.T) {
	want := sample()
	got, err := Parse(flatten(want))
	if err != nil || !reflect.DeepEqual(got, want) {
		t.Fatalf("%v: %+v", err, got)
	}
	if got.Text("model") != "Raspberry Pi 4 Model B" || !slices.Equal(got.Texts("compatible"), []string{"raspberrypi,4-model-b", "brcm,bcm2711"}) {
		t.Errorf("%q, %q", got.Text("model"), got.Texts("compatible"))
	}
	uart := got.At("/soc/serial@7e201000")
	if uart.Okay() || !got.Okay() || !slices.Equal(uart.Cells("reg"), []uint32{0x7e201000, 0x200}) || got.Phandles()[7] != uart {
		t.Errorf("%+v", uart)
	}
	if got.At("/soc/none/below") != nil || !got.Has("empty") || got.Texts("empty") != nil {
		t.Error("what is not there is")
	}
}

func TestParseRefuses(t *testing.T) {
	good := flatten(sample())
	change := func(at int, v uint32) []byte {
		b := slices.Clone(good)
		binary.BigEndian.PutUint32(b[at:], v)
		return b
	}
	deep := node("", nil)
	for range maxDepth {
		deep = node("x", nil, deep)
	}
	for name, c := range map[string]struct {
		b    []byte
		want string
	}{
		"nothing":             {nil, "no flattened device tree"},
		"another file":        {[]byte(strings.Repeat("x", 100)), "no flattened device tree"},
		"cut off":             {good[:len(good)-1], "says it has"},
		"a later version":     {change(24, 18), "needs a reader of version 18"},
		"structure elsewhere": {change(8, 1<<31), "begins behind the end"},
		"unknown token":       {change(headerSize, 77), "unknown token 0x4d"},
		"an end first":        {change(headerSize, endNode), "an end without a node"},
		"too short":           {change(4, headerSize+8), "begins behind"},
		"too deep":            {flatten(deep), "deeper than 64"},
	} {
		if _, err := Parse(c.b); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %s", name, err, c.want)
		}
	}
}

func TestReadFolder(t *testing.T) {
	got, err := ReadFolder(fstest.MapFS{
		"model":                            {Data: []byte("X\x00")},
		"soc/serial@7e201000/status":       {Data: []byte("okay\x00")},
		"soc/gpio/phandle":                 {Data: []byte{0, 0, 0, 9}},
		"__symbols__/uart0":                {Data: []byte("/soc\x00")},
		"aliases/serial0":                  {Data: []byte("/soc/serial@7e201000\x00")},
		"soc/serial@7e201000/bluetooth/up": {},
	})
	if err != nil {
		t.Fatal(err)
	}
	if got.Text("model") != "X" || !got.At("/soc/serial@7e201000").Okay() || got.Child("__symbols__") != nil || !got.At("soc/serial@7e201000/bluetooth").Has("up") {
		t.Errorf("%+v", got)
	}
	if _, err := ReadFolder(fstest.MapFS{"x": {}}); err != nil {
		t.Errorf("an empty tree: %v", err)
	}
}

// overlay turns the UART on, gives it pins of its own, and wires a sensor to a line.
func overlay() *Node {
	return node("", nil,
		node("fragment@0", map[string]string{"target": "\xff\xff\xff\xff"},
			node("__overlay__", map[string]string{"status": "okay\x00", "pinctrl-0": "\x00\x00\x00\x01"})),
		node("fragment@1", map[string]string{"target-path": "/soc\x00"},
			node("__overlay__", nil,
				node("pins", map[string]string{"phandle": "\x00\x00\x00\x01"}),
				node("sensor", map[string]string{"gpios": "\xff\xff\xff\xff\x00\x00\x00\x04"}))),
		node("fragment@2", map[string]string{"target": "\xff\xff\xff\xff"}, node("__dormant__", nil)),
		node("__fixups__", map[string]string{"uart0": "/fragment@0:target:0\x00", "gpio": "/fragment@1/__overlay__/sensor:gpios:0\x00", "none": "/fragment@2:target:0\x00"}),
		node("__local_fixups__", nil, node("fragment@0", nil, node("__overlay__", map[string]string{"pinctrl-0": "\x00\x00\x00\x00"}))))
}

func TestApply(t *testing.T) {
	base, over := sample(), overlay()
	got, err := Apply(base, over)
	if err != nil {
		t.Fatal(err)
	}
	uart := got.At("/soc/serial@7e201000")
	if pins, _ := uart.Cell("pinctrl-0"); !uart.Okay() || got.Phandles()[pins] != got.At("/soc/pins") {
		t.Errorf("%+v", uart)
	}
	if g := got.At("/soc/sensor").Cells("gpios"); !slices.Equal(g, []uint32{9, 4}) {
		t.Errorf("gpios %v", g)
	}
	if !reflect.DeepEqual(base, sample()) || !reflect.DeepEqual(over, overlay()) {
		t.Error("what was given was changed")
	}
	over = overlay()
	over.Child("__fixups__").Props["nobody"] = []byte("/fragment@0:target:0\x00")
	if _, err := Apply(base, over); err == nil || !strings.Contains(err.Error(), `no symbol "nobody"`) {
		t.Errorf("%v", err)
	}
}

// FuzzParse: any bytes give a tree or an error; a tree survives being written and read again, and
// takes itself as an overlay without a panic.
func FuzzParse(f *testing.F) {
	f.Add(flatten(sample()))
	f.Add(flatten(overlay()))
	f.Add(flatten(node("", nil)))
	f.Fuzz(func(t *testing.T, b []byte) {
		n, err := Parse(b)
		if err != nil {
			return
		}
		again, err := Parse(flatten(n))
		if err != nil || !reflect.DeepEqual(n, again) {
			t.Fatalf("written and read again: %v", err)
		}
		_, _ = Apply(n, n)
		_, _ = Apply(sample(), n)
	})
}
