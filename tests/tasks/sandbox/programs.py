"""Programs for the sandbox's tests: harmless ones, ones that pretend to have passed, ones that use up what they can."""

from __future__ import annotations

HARMLESS = {
    "arithmetic": ("x = 1 + 1", "assert x == 2"),
    "classes": ("import dataclasses\n@dataclasses.dataclass\nclass A:\n  x: int", "assert A(1) == A(1)"),
    "output": ("print('hello'); import sys; sys.stderr.write('there')",),
    "input ends at once": ("import sys\nassert sys.stdin.read() == ''",),
    "library": ("import json, decimal, unicodedata, zlib, sqlite3\nassert json.loads('[1]') == [1]",),
    "its own directory": (
        "import os, tempfile\n"
        "assert os.listdir() == []\n"
        "open('a', 'w').write('text'); os.rename('a', 'b'); assert open('b').read() == 'text'; os.remove('b')\n"
        "with tempfile.TemporaryFile() as file: file.write(b'x')",
    ),
    "nothing in the environment": ("import os, sys\nassert not os.environ\nassert sys.argv == ['program']",),
    "no site-packages": ("import sys\nassert not any('site-packages' in path for path in sys.path)",),
    "recursion": ("f = lambda n: n and 1 + f(n - 1)\nassert f(500) == 500",),
    "a recursion error that is caught": (
        "def f(): f()\ntry: f()\nexcept RecursionError: caught = True", "assert caught"
    ),
    "not a main program": ("assert __name__ != '__main__'",),
    "no parts": (),
}  # fmt: skip

FORGERIES = {
    "exit": "exit(0)",
    "sys.exit": "import sys; sys.exit(0)",
    "SystemExit": "raise SystemExit(0)",
    "os._exit": "import os; os._exit(0)",
    "os.abort": "import os; os.abort()",
    "kill itself": "import os; os.kill(os.getpid(), 9)",
    "interrupt": "raise KeyboardInterrupt",
    "segmentation fault": "import ctypes; ctypes.string_at(0)",
    "exit that is patched": "import os, builtins, sys\nos._exit = sys.exit = builtins.exit = lambda *_: None",
    "os.write that is patched": "import os\nos.write = lambda fd, data: len(data)\nos.read = lambda fd, n: b'x' * n",
    "exec that is patched": "import builtins\nbuiltins.exec = builtins.compile = lambda *a, **k: None",
    "assertions that are patched": "import builtins\nbuiltins.AssertionError = type('E', (BaseException,), {})",
    "no builtins": "import builtins\nvars(builtins).clear()",
    "no modules": "import sys\nsys.modules.clear()",
    "a trace function that skips": (
        "import sys\ndef trace(frame, event, arg):\n"
        "  frame.f_lineno = frame.f_lineno + 1\n  return trace\nsys.settrace(trace)"
    ),
    "an exit hook": "import atexit, os\natexit.register(os._exit, 0)",
    "a signal handler": (
        "import signal, os\nfor n in range(1, 32):\n"
        "  try: signal.signal(n, lambda *_: os._exit(0))\n  except OSError: pass\nwhile True: pass"
    ),
    "a timer": (
        "import signal, os\nsignal.signal(14, lambda *_: os._exit(0))\nsignal.setitimer(0, 0.05)\nwhile True: pass"
    ),
    "printing": "import sys\nfor _ in range(10): print('passed', '+', True, file=sys.stderr)",
    "writing to every descriptor": (
        "import os\nfor fd in range(64):\n"
        "  for data in (b'+', b'passed', b'+' * 33, b'x' * 32, b'{\"id\": 0, \"passed\": true}\\n'):\n"
        "    try: os.write(fd, data)\n    except OSError: pass"
    ),
    "closing every descriptor": "import os\nos.closerange(0, 64)",
    "exchanging the descriptors": "import os\nfor a in range(3):\n  for b in (3, 4): os.dup2(a, b)",
    "eating the secret": "import os\nos.read(3, 32)",
    "an exception with a name of its own": "raise type('+passed', (Exception,), {})('passed')",
    "an endless exception": "class E(Exception):\n  def __str__(self):\n    while True: pass\nraise E",
    "an open string": "text = '''",
    "a comment that swallows": "#\\",
    "a future import": "from __future__ import annotations\nimport os; os._exit(0)",
    "another main": "import sys\nsys.modules['__main__'].check = print; raise SystemExit",
}

EXHAUSTION = {
    "endless loop": "while True: pass",
    "endless loop that catches everything": (
        "def loop():\n  while True:\n    try:\n      while True: pass\n    except BaseException: pass\nloop()"
    ),
    "sleep": "import time; time.sleep(100)",
    "ignoring every signal": (
        "import signal\nfor n in range(1, 65):\n"
        "  try: signal.signal(n, signal.SIG_IGN)\n  except (OSError, ValueError): pass\nwhile True: pass"
    ),
    "blocking every signal": (
        "import signal\nsignal.pthread_sigmask(signal.SIG_BLOCK, range(1, 65))\nwhile True: pass"
    ),
    "fork bomb": "import os\nwhile True:\n  try: os.fork()\n  except OSError: pass",
    "fork and wait": "import os, time\nif os.fork() == 0: time.sleep(100)\nos.wait()",
    "daemon": (
        "import os, time, signal\nif os.fork() == 0:\n  os.setsid()\n  if os.fork() == 0:\n"
        "    signal.signal(15, signal.SIG_IGN)\n    time.sleep(100)\n  os._exit(0)\nos._exit(0)"
    ),
    "threads": (
        "import threading, time\nthreading.stack_size(32768)\n"
        "while True:\n  try: threading.Thread(target=time.sleep, args=(100,)).start()\n  except RuntimeError: pass"
    ),
    "subprocess": "import subprocess\nsubprocess.Popen(['/bin/sleep', '100'])",
    "becoming another program": "import os\nos.execv('/bin/sleep', ['sleep', '100'])",
    "memory": "data = []\nwhile True: data.append(bytearray(2**20))",
    "memory that catches": ("data = []\nwhile True:\n  try: data.append(bytearray(2**20))\n  except MemoryError: pass"),
    "memory in a file": (
        "import os\nwhile True:\n  fd = os.memfd_create('m')\n  os.truncate(fd, 2**20)\n  os.write(fd, bytes(2**20))"
    ),
    "huge integer": "x = 9 ** 9 ** 9",
    "huge string": "x = 'x' * 10 ** 12",
    "slow pattern": "import re\nre.match('(a+)+$', 'a' * 64 + 'b')",
    "deep recursion": "import sys\nsys.setrecursionlimit(10**9)\nf = lambda: f()\nf()",
    "deep recursion in C": "import sys\nsys.setrecursionlimit(10**9)\nx = []\nfor _ in range(10**6): x = [x]\nrepr(x)",
    "deep nesting": "x = eval('(' * 10**5 + ')' * 10**5)",
    "an endless print": "while True: print('x' * 10**6)",
    "an endless answer": "import os\nwhile True: os.write(4, b'x' * 10**6)",
    "a large file": "file = open('large', 'wb')\nwhile True: file.write(bytes(2**20))",
    "many files": "i = 0\nwhile True:\n  i += 1\n  open(str(i), 'w').write('x' * 1000)",
    "many open files": "files = []\nwhile True: files.append(open('/dev/null'))",
    "deep directories": "import os\nfor _ in range(500): os.mkdir('d' * 200); os.chdir('d' * 200)",
    "a directory that cannot be entered": "import os\nos.makedirs('a/b'); open('a/b/c', 'w').close(); os.mkdir('z', 0)",
}
