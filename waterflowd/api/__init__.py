"""The HTTP API: one router per resource (routes/), over ports only.

Rules of this package:

- A request passes the authentication (access/auth.py), then a route. Routes are thin: they declare the role that they require
  (dependencies.py), decode the body (request_bodies.py), call a port, and encode a Struct (schemas/, responses.py).
- Storage and transport are behind ports, which `Services` (services.py) holds. `Api` (app.py) connects the parts, `ApiServer`
  (server.py) listens on TCP and on a unix socket.
- Every error is a `problem+json` (problems.py) with a stable code; an invalid request is never a 500.
- A 2xx answer to a change is sent after the change is durable, as the methods of the ports promise.
- Answers are bounded: pages have at most 100 rows; streams (streaming/) hold one batch at a time and end on stop.
"""
