"""`python -m chorus.demo.tied …` is `chorus …` that ends when its standard input does: with its starter."""

import os
import threading

from chorus.cli import main


def _end_with_input() -> None:
    while os.read(0, 1024):
        pass
    os._exit(1)


if __name__ == "__main__":
    threading.Thread(target=_end_with_input, daemon=True).start()
    main()
