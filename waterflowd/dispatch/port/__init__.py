"""The ports for agents: each one is a process that speaks ZeroMQ's protocol with peers, so that the daemon never has to.

    peers ──TCP, CURVE──▶ port process (`process`) ──records, a socket pair──▶ daemon (`client`)

Theory: strangers can send a port anything. So the bytes of a connection that has proven no key are parsed in a process that
can do nothing else, can be replaced at any time and has limits of its own. The protocol is implemented here, in Python with
libsodium, because libzmq gives a server no control over its connections (it cannot close one, nor count them by address) and
ends its whole process when an assertion fails.

`zmtp` and `curve` are the protocol, `limits` says who may connect: all three are pure. `process` serves the connections of
one listening socket, `records` is the format of the socket pair, and `client` is the daemon's side of it.
"""
