"""The gateway: a daemon with the engine on Temporal, as its agents see it. It carries out the activities of runs.

    activity `place`     waits for a slot of a connected agent                       slots, activities
    activity `attempt`   offers the attempt to its agent; the report completes it    activities, attempts, reports
    activity `cancel`    sends the cancel to the agent                               activities
    activity `release`   lets the agent remove a job's directory                     activities

Rules of this package

- Nothing is acknowledged to an agent before Temporal has confirmed it. Temporal's confirmation may be lost, so everything is
  sent again, and everything may arrive any number of times.
- An activity belongs to an agent and a lease by its id. The id is made of the key of the connection, never of a claim, so an
  agent can only complete its own attempts.
- A gateway keeps nothing on disk. After its death another one completes activities by name, and gives those of running
  attempts back to the queue, where it takes them itself.
- The values of secrets are filled in here, and leave only to the agent.
"""
