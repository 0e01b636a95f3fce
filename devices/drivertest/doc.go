// Package drivertest is the contract that every driver passes (Run), and what its
// tests need: a clock that is moved by hand (Clock) and a sink that keeps what it was
// given (Recorder).
//
// It promises nothing about values: those are the driver's own tests. It will not
// sleep: it waits for conditions, with a deadline.
package drivertest
