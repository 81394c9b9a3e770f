//! What a packet costs. Figures, not a verdict: run with `--ignored --nocapture`, on a quiet machine.
