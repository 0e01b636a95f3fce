package agent

import (
	"fmt"
	"maps"
	"slices"

	"holdfast/systemd/settings"
	"holdfast/uplink/wire"
)

// mergeTags is what a device's messages carry: the gateway's tags and its own, which win.
// An empty one of its own takes away the gateway's. nil: none.
func mergeTags(gateway, device map[string]string) map[string]string {
	merged := maps.Clone(gateway)
	for key, value := range device {
		switch {
		case value == "":
			delete(merged, key)
		case merged == nil:
			merged = map[string]string{key: value}
		default:
			merged[key] = value
		}
	}
	if len(merged) == 0 {
		return nil
	}
	return merged
}

// tagsOf returns the tags of a device; of one that is configured no more those of the gateway.
func (c *Config) tagsOf(device string) map[string]string {
	for _, d := range c.Devices {
		if d.Name == device {
			return d.Tags
		}
	}
	return c.Tags
}

// gatewayTags checks [gateway] tags.
func (l *loader) gatewayTags() {
	tags := l.f.Gateway.Tags
	for _, key := range slices.Sorted(maps.Keys(tags)) {
		if err := wire.CheckTag(key, tags[key]); err != nil {
			l.Problem("gateway.tags."+key, "%v", err)
		}
	}
	if why := l.tooMany(tags); why != "" {
		l.Problem("gateway.tags", "%s", why)
	}
}

// tags checks what a device adds to the gateway's tags, and returns what its messages carry.
func (l *loader) tags(t *settings.Table, device map[string]string) map[string]string {
	gateway := l.f.Gateway.Tags
	for _, key := range slices.Sorted(maps.Keys(device)) {
		value := device[key]
		if _, there := gateway[key]; value == "" {
			if !there {
				t.Problem("tags."+key, "is empty, which takes away a tag of the gateway, and that has no %q", key)
			}
			continue
		}
		if err := wire.CheckTag(key, value); err != nil {
			t.Problem("tags."+key, "%v", err)
		}
	}
	merged := mergeTags(gateway, device)
	if why := l.tooMany(merged); why != "" && l.tooMany(gateway) == "" { // else it is said there
		t.Problem("tags", "%s (%d of them are the gateway's)", why, len(gateway))
	}
	return merged
}

// tooMany says why tags are too many or too long. They come on top of batch_bytes, with
// every message: more than a quarter of it would be a message of tags.
func (l *loader) tooMany(tags map[string]string) string {
	n := int64(wire.TagBytes(tags))
	switch quarter := l.f.Buffer.BatchBytes / 4; {
	case len(tags) > wire.MaxTags:
		return fmt.Sprintf("%d tags; at most %d", len(tags), wire.MaxTags)
	case n > wire.MaxTagBytes:
		return fmt.Sprintf("%d bytes of names and values; at most %d: they travel with every message", n, wire.MaxTagBytes)
	case n > quarter:
		return fmt.Sprintf("%d bytes of names and values, which every message carries; at most a quarter of buffer.batch_bytes (%s): shorten them, or raise that", n, settings.Size(l.f.Buffer.BatchBytes))
	}
	return ""
}
