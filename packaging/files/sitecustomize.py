"""OpenSSL looks for certificates where Debian keeps them; on other distributions, this points it to theirs."""

import os

if "SSL_CERT_FILE" not in os.environ and not os.path.exists("/usr/lib/ssl/certs"):
    for _place in ("/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt"):
        if os.path.exists(_place):
            os.environ["SSL_CERT_FILE"] = _place
            break
