"""Stands for Blender's worker: speaks its protocol and misbehaves as a job says. Standard library alone."""

import json
import os
import sys
import time

settings = None
for line in sys.stdin:
    message = json.loads(line)
    if settings is None:
        settings = message
        print(json.dumps({"ok": True, "version": "fake"}), flush=True)
        continue
    # A job's trouble happens once: the file is the memory that outlives this process.
    trouble, marker = message.get("trouble"), message.get("marker")
    if trouble and not (marker and os.path.exists(marker)):
        if marker:
            open(marker, "w").close()
        if trouble == "die":
            print("RuntimeError: out of memory", file=sys.stderr)
            os._exit(7)
        if trouble == "hang":
            time.sleep(600)
        if trouble == "garbage":
            print("Blender says hello", flush=True)
            continue
        if trouble == "report":
            print(json.dumps({"ok": False, "error": "ValueError: no mesh"}), flush=True)
            continue
    time.sleep(message.get("seconds", 0))
    print(json.dumps({"ok": True, "value": message.get("value"), "pid": os.getpid(), **settings}), flush=True)
