// Package listen is how a connection gets in, as far as to where MQTT begins.
//
// A connection comes through what its listener has, in this order: the PROXY protocol (proxyproto.go), TLS with or without a
// client's certificate (certificate.go, clientcert.go, tlsfiles.go: their files are read again when they change), WebSocket
// (websocket.go). front.go opens the listeners, counts and says who is turned away and what an operator can do about it, and hands
// on the others. config.go is [listen].
//
// It promises that no error of a connection ends a listener, that nobody who does not come as far as MQTT in time stays, and that
// a file which cannot be used changes nothing.
//
// It reads no MQTT, knows no users, and keeps no connection once it has handed it on.
package listen
