# Enabled and started at the first installation.
units="waterflow-runner.service waterflow-agent.path waterflow-agent.service"
# Restarted by an upgrade if active. Never the runner: it holds the steps, and the agent restarts it once no step runs.
renewed="waterflow-agent.service"
# Stopped before the package is removed, in this order.
all_units="waterflow-agent.path waterflow-agent.service waterflow-runner.service"
data="/var/lib/waterflow-agent /var/lib/waterflow-step"
# In memory: the secrets of running steps. Once the runner has stopped, no step needs them.
runtime="/run/waterflow-agent"
prepare() { :; }
# Until it is restarted, the agent starts nothing with a mixture of old and new files. Running steps continue.
before_upgrade() {
    if systemctl --quiet is-active waterflow-agent.service; then waterflow-agent drain; fi
}
abort_upgrade() { systemctl try-restart waterflow-agent.service; }
first_words() {
    if [ -s /etc/waterflow/join-token ]; then return 0; fi
    echo "The agent is waiting for a join token. On the daemon's host: sudo waterflowctl agents tokens create --group GROUP. Then here:"
    echo "  echo TOKEN | sudo install -m 600 -o waterflow-agent /dev/stdin /etc/waterflow/join-token"
}
