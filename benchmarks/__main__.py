"""Run every benchmark: ``python -m benchmarks``."""

from benchmarks import alignment, forward_kl, normalisation, projection, signal_bytes, stages


def main() -> None:
    """Print all tables."""
    for benchmark in (signal_bytes, alignment, projection, forward_kl, normalisation, stages):
        benchmark.main()


if __name__ == "__main__":
    main()
