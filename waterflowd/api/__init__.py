"""The HTTP API: one resource per file, over ports alone.

Rules of this package:

- Handlers are thin: they check who asks (auth.py), read the request (bodies.py), ask a port, and render (rendering.py).
- Nothing here knows how things are stored or sent; `Services` (services.py) holds the ports, `build_app` (app.py) puts them
  together, `ApiServer` (server.py) listens on TCP and on a unix socket.
- Whatever is wrong with a request is a `problem+json` (problems.py) with a stable code, never a 500.
- A 2xx to something that changes the world is sent after the fact is durable: every port's method promises that.
- Answers are bounded: pages of at most 100 rows; streams (streams.py) hold one batch at a time and end themselves on stop.
"""
