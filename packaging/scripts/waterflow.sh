# Enabled and started at the first installation.
units="waterflowd.service"
# Restarted by an upgrade, if they run.
renewed="waterflowd.service"
# Stopped before the package goes, in this order.
all_units="waterflowd.service"
data="/var/lib/waterflow"
first_words() {
    if ! systemctl --quiet is-active waterflowd.service; then
        echo "waterflowd does not run: $(systemctl show --property=StatusText --value waterflowd.service)"
        echo "  systemctl status waterflowd     # says more"
        return 0
    fi
    echo "waterflowd runs; its API is on 127.0.0.1:8080 and /run/waterflow/waterflowd.sock. Next:"
    echo "  sudoedit /etc/waterflow/waterflowd.toml && sudo systemctl restart waterflowd     # name a repository"
    echo "  sudo waterflowctl agents token --group GROUP                                     # let a server join"
}
