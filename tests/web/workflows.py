"""The workflows of the runs that the tests look at."""

GOOD = """name: report
jobs:
  collect:
    runs-on: web
    strategy: {matrix: {region: [eu, us]}}
    report: {title: Regions, columns: {Region: "${{ matrix.region }}", Collected on: "${{ agent.name }}"}}
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
          printf '# <img src=x onerror=alert(4)>\n\342\200\256reversed\n' >> "$WATERFLOW_SUMMARY"
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

#: Prints LINES lines, each with a colour, some with an error.
LONG_LOG = r"""name: long log
jobs:
  print:
    runs-on: web
    steps:
      - id: many
        name: Print many lines
        run: |
          awk 'BEGIN {
            for (i = 1; i <= LINES; i++)
              printf "line %d of \033[3%dma log\033[0m%s\n", i, i % 8, i % 5000 ? "" : " error: it broke"
          }'
"""

#: Everything that output may contain.
MIXED_LOG = r"""name: mixed log
jobs:
  print:
    runs-on: web
    steps:
      - id: mixed
        name: Print all kinds
        run: |
          printf '<script>alert(3)</script> \342\200\256reversed \000nul\n'
          printf '\033]8;;http://elsewhere.example\alink\033]8;;\a\n'
          printf '\033[31mred\033[0m \033[1mbold\033[0m \033[38;2;1;2;3mtrue\033[0m\n'
          for i in $(seq 1 100); do printf '%s %%\r' "$i"; done; echo
          echo 'see https://example.org/a'
          head -c 10000000 /dev/zero | tr '\0' x; echo
          echo '::error file=a.c,line=3::<b>broken</b>' >&2
"""

#: Prints a line every few milliseconds until a file appears.
TICKING = r"""name: ticking
jobs:
  work:
    runs-on: web
    steps:
      - id: tick
        name: Tick
        run: |
          i=0
          until [ -e FILE ]; do i=$((i+1)); echo "tick $i"; sleep 0.03; done
          echo end of ticking
"""

#: Prints 1,000 lines ten times a second, or as fast as the machine can, until a file appears; and how many there were.
FAST = r"""name: fast
jobs:
  work:
    runs-on: web
    steps:
      - id: fast
        name: Print fast
        run: |
          i=0
          until [ -e FILE ]; do
            seq -f 'line %.0f' $((i + 1)) $((i + 1000)); i=$((i + 1000)); sleep 0.1
          done
          echo "lines: $i"
"""

ROLL = """name: roll out
jobs:
  roll:
    runs-on: {group: web, target: each}
    steps: [{id: copy, name: Copy, run: "echo copying; echo copied"}]
"""

#: Twelve jobs, one of which runs on each server and fails there.
DEPLOY = """name: twelve jobs
jobs:
  lint: {runs-on: web, steps: [{run: 'true'}]}
  unit: {runs-on: web, steps: [{run: 'true'}]}
  build: {runs-on: web, needs: [lint, unit], steps: [{run: 'true'}]}
  image: {runs-on: web, needs: build, steps: [{run: 'true'}]}
  scan: {runs-on: web, needs: image, steps: [{run: 'true'}]}
  backup: {runs-on: web, needs: build, steps: [{run: 'true'}]}
  stage: {runs-on: web, needs: image, steps: [{run: 'true'}]}
  approve: {runs-on: web, needs: [stage, scan], steps: [{run: 'true'}]}
  release: {runs-on: {group: web, target: each}, needs: [approve, backup], steps: [{run: exit 2}]}
  smoke: {runs-on: web, needs: release, steps: [{run: 'true'}]}
  notify: {runs-on: web, needs: [release, build], steps: [{run: 'true'}]}
  cleanup: {runs-on: web, needs: smoke, steps: [{run: 'true'}]}
"""
