"""Make the dashboard and the rules anew, from the program's table of metrics:

python -m deploy.monitoring --runbooks https://docs.example/runbooks
"""

import argparse
from pathlib import Path

from deploy.monitoring.dashboard import dashboard
from deploy.monitoring.rules import rules

DEPLOY = Path(__file__).parent.parent


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m deploy.monitoring", description=__doc__)
    parser.add_argument("--prefix", default="onwards", help="what the gateway has as --metrics-prefix")
    parser.add_argument("--runbooks", default="https://docs.example/runbooks", help="where your runbooks are")
    options = parser.parse_args()
    (DEPLOY / "prometheus" / "onwards.rules.yml").write_text(rules(options.prefix, options.runbooks))
    (DEPLOY / "grafana" / "onwards.json").write_text(dashboard(options.prefix))


if __name__ == "__main__":
    main()
