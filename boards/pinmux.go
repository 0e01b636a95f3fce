package boards

import (
	"slices"
	"strconv"
	"strings"

	"holdfast/boards/fdt"
)

// mainPins is the pins that the node's first state switches, as offsets of the first chip.
func (d *describer) mainPins(n *fdt.Node) []uint32 {
	var out []uint32
	for _, s := range d.pins(n) {
		if len(d.chips) > 0 && s.Chip == d.chips[0].label {
			out = append(out, s.Offset)
		}
	}
	if len(d.chips) > 1 {
		return nil // of several chips an offset says nothing
	}
	return out
}

// switched notes the lines that a device which is on takes from GPIO. What a pin controller sets
// for itself is only where it starts from: a request for the line changes it.
func (d *describer) switched(n *fdt.Node) {
	if !n.Has("pinctrl-0") || !d.on(n) || n.Has("gpio-controller") || n.Has("#pinctrl-cells") {
		return
	}
	switch n.Text("compatible") {
	case "gpio-leds", "gpio-keys", "w1-gpio", "i2c-gpio", "regulator-fixed": // they request lines: the kernel knows
		return
	}
	to := n.Name
	if all := d.names[d.paths[n]]; len(all) > 0 {
		to = all[0]
		if u := d.called(n, "uart"); u != "" {
			to = u
		}
	}
	for _, s := range d.pins(n) {
		if !slices.ContainsFunc(d.Switched, func(o Switched) bool { return o.Spot == s }) {
			d.Switched = append(d.Switched, Switched{s, to})
		}
	}
}

// pins is the lines that the node's first state (pinctrl-0) names, in order. Three kinds of pin
// controller are known: brcm,bcm2835-pinctrl ("brcm,pins"), those with generic names
// (pinctrl-bindings: "pins"), and pinctrl-single.
func (d *describer) pins(n *fdt.Node) []Spot {
	var out []Spot
	for _, h := range n.Cells("pinctrl-0") {
		state := d.handles[h]
		if state == nil {
			continue
		}
		ctrl := d.controller(state)
		if ctrl == nil {
			continue
		}
		for _, part := range append([]*fdt.Node{state}, state.Children...) {
			for _, pin := range pinNumbers(part, ctrl) {
				if s, is := d.lineOf(ctrl, pin); is {
					out = append(out, s)
				}
			}
		}
	}
	return out
}

// controller is the pin controller that a state belongs to.
func (d *describer) controller(state *fdt.Node) *fdt.Node {
	for n := d.parents[state]; n != nil; n = d.parents[n] {
		if n.Has("compatible") {
			return n
		}
	}
	return nil
}

func pinNumbers(state, ctrl *fdt.Node) []uint32 {
	out := state.Cells("brcm,pins")
	for _, name := range state.Texts("pins") {
		if n, err := strconv.ParseUint(strings.TrimPrefix(name, "gpio"), 10, 16); err == nil {
			out = append(out, uint32(n))
		}
	}
	// pinctrl-single,pins: register offset, then one or two values (bindings/pinctrl/pinctrl-single).
	width, has := ctrl.Cell("pinctrl-single,register-width")
	if !has || width < 8 {
		return out
	}
	step := 2
	if cells, _ := ctrl.Cell("#pinctrl-cells"); cells == 2 {
		step = 3
	}
	single := state.Cells("pinctrl-single,pins")
	for i := 0; i < len(single); i += step {
		out = append(out, single[i]/(width/8))
	}
	return out
}

// lineOf is the GPIO line that a controller's pin is (gpio-ranges: controller, first line, first pin, how many).
func (d *describer) lineOf(ctrl *fdt.Node, pin uint32) (Spot, bool) {
	for _, c := range d.chips {
		r := c.node.Cells("gpio-ranges")
		for ; len(r) >= 4; r = r[4:] {
			if d.handles[r[0]] == ctrl && pin >= r[2] && pin-r[2] < r[3] {
				return Spot{c.label, r[1] + pin - r[2]}, true
			}
		}
		if c.node == ctrl && !c.node.Has("gpio-ranges") {
			return Spot{c.label, pin}, true
		}
	}
	return Spot{}, false
}
