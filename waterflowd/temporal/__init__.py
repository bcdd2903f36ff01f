"""The engine on a Temporal cluster: the same workflows, without a log of this daemon. An extra (`waterflow[temporal]`).

Only this package imports Temporal's client. It holds

- `codec`, `payload_keys`, `converter`: how values are stored in Temporal, sealed.
"""
