"""What Temporal stores is sealed: payloads are encrypted and authenticated for one workflow.

payload_keys         the key file: the first key seals, all open
codec                seals every payload, and refuses what no daemon has sealed
deflate_dictionary   what small payloads usually contain, so that they deflate well
converter            structs, bytes and errors as payloads
payload_decoder      shows people what is sealed, as JSON
"""
