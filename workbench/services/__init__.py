"""What pages and the command line call: plain values in, plain values out; errors are one sentence."""
