"""Run every benchmark: ``python -m benchmarks``."""

from benchmarks import align_speed, forward_kl, signal_bytes, stages


def main() -> None:
    """Print all tables."""
    for benchmark in (signal_bytes, align_speed, forward_kl, stages):
        benchmark.main()


if __name__ == "__main__":
    main()
