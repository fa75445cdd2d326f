# What people run by hand. CI runs scripts/test.

default: check

# Formatting, lints, dependencies, and the tests that need nothing installed.
check:
    cargo fmt --all --check
    cargo clippy --workspace --all-targets -- -D warnings
    cargo deny check
    cargo test --workspace

# Everything, foreign clients included.
test:
    scripts/test

# The scenario of the project, on this machine.
demo:
    cargo run --release -- demo

