"""The wire protocol between daemon and agent. Pure: no socket, clock or file.

- `messages`: the messages, and which side may send them in which state.
- `codec`: frames to bytes and back, with limits. Hostile bytes raise one kind of error.
- `session`: numbers, acknowledgements, retransmission and keep-alives, as a state machine that takes the time as an argument.

The course of a session: the agent makes a token and sends `Hello` with everything that it holds. The daemon compares that with
its log, answers `Welcome`, and sends offers. An offer is acknowledged when it is in the agent's journal, a result when it is in
the daemon's log. When the connection is lost or silent, both sides drop the session; the next `Hello` settles what was in
flight.
"""
