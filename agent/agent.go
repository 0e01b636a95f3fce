// Package agent is the gateway: the whole flow from device to uplink.
package agent
