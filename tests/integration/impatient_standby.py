"""An engine worker that tries again soon after it differed from its leader."""

from engine_worker import main

if __name__ == "__main__":
    main.DIFFERS_RETRY_S = 0.2
    main.main()
