# Enabled and started at the first installation.
units="waterflowd.service"
# Restarted by an upgrade if active.
renewed="waterflowd.service"
# Stopped before the package is removed, in this order.
all_units="waterflowd.service"
data="/var/lib/waterflow"
runtime=""
before_upgrade() { :; }
abort_upgrade() { :; }
# The key of the audit trail: the daemon reads it, and cannot write it. It is kept with the data directory.
prepare() {
    key=/etc/waterflow/audit.key
    if [ -e "$key" ]; then return 0; fi
    mkdir -p -m 755 /etc/waterflow
    (umask 077 && od -An -N32 -tx1 /dev/urandom | tr -d ' \n' > "$key.new" && echo >> "$key.new")
    chgrp waterflow "$key.new" && chmod 640 "$key.new" && mv "$key.new" "$key"
}
first_words() {
    if ! systemctl --quiet is-active waterflowd.service; then
        echo "waterflowd is not running: $(systemctl show --property=StatusText --value waterflowd.service)"
        echo "  systemctl status waterflowd     # for details"
        return 0
    fi
    echo "waterflowd is running; its API listens on 127.0.0.1:8080 and /run/waterflow/waterflowd.sock. Next:"
    echo "  sudo waterflowctl repositories add NAME URL               # or edit /etc/waterflow/waterflowd.toml"
    echo "  sudo waterflowctl agents tokens create --group GROUP      # enroll a server"
}
