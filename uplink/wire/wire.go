// Package wire is the message: what is signed, how, and how it is verified.
package wire
