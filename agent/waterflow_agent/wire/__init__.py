"""The wire between daemon and agent: pure, without a socket, a clock or a file.

- `messages`: what is said, and who may say it when.
- `codec`: frames to bytes and back, with limits; hostile bytes are one kind of error.
- `session`: numbers, acknowledgements, sending again and keep-alives, as a machine that takes the time as an argument.

One session as it goes: the agent makes a token and says `Hello` with all that it holds. The daemon settles that with its log
and says `Welcome`, and offers what it owes. An offer is acknowledged when the agent's journal has it, a result when the log
has it. When the connection breaks or falls silent both sides drop the session, and the next `Hello` settles what was in flight.
"""
