"""How hypothesis searches: without deadlines, which depend on the machine, and the same in each run of CI.

And what the programs that tests start inherit: a shell lets its background jobs ignore SIGINT, but Ctrl-C is tested.
"""

import os
import signal

from hypothesis import HealthCheck, settings

settings.register_profile("gateway", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("gateway-ci", settings.get_profile("gateway"), derandomize=True)
settings.load_profile("gateway-ci" if "CI" in os.environ else "gateway")

os.environ["ONWARDS_LOG_FORMAT"] = "text"  # which their tests read

signal.signal(signal.SIGINT, signal.default_int_handler)
