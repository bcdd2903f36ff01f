"""The workflows of the runs that the tests look at."""

GOOD = """name: report
jobs:
  collect:
    runs-on: web
    strategy: {matrix: {region: [eu, us]}}
    steps: [{name: Collect, run: echo collected}]
  publish:
    needs: collect
    runs-on: web
    steps: [{name: Publish, run: echo published}]
"""

FAILING = """name: deploy
jobs:
  build:
    runs-on: web
    steps: [{name: Build, run: echo built}]
  release:
    needs: build
    runs-on: {group: web, target: each}
    steps:
      - {name: Copy files, run: echo copied}
      - {id: migrate, name: Migrate, run: "echo 'no such column: pool' >&2; exit 2"}
  notify:
    needs: release
    runs-on: web
    steps: [{name: Notify, run: echo notified}]
"""

GATE = """name: release
jobs:
  ship:
    runs-on: web
    steps:
      - {id: gate, name: Wait for a decision, uses: approval, with: {timeout: 7d, default: reject}}
      - {name: Ship, run: echo shipped}
"""

#: Markup, a mark that reverses text, and a terminal escape, in every name and in the output.
HOSTILE = r"""name: "<img src=x onerror=alert(1)>\u202egnp.exe"
jobs:
  a:
    name: "<script>alert(2)</script>"
    runs-on: web
    steps:
      - id: bad
        name: "</span><b>bold</b>\u202e"
        run: |
          printf '<script>alert(3)</script> \342\200\256reversed \033]8;;http://elsewhere.example\a\n'
          exit 3
"""

#: Runs until a file appears, so that a test sees it run for as long as it needs.
UNTIL = """name: NAME
on: {push: {branches: [main]}}
jobs:
  work:
    runs-on: web
    steps:
      - name: Wait for the test
        run: until [ -e FILE ]; do sleep 0.1; done; echo done waiting
"""
