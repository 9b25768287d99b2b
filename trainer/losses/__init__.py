"""What training minimises, one file for each loss, and beside each the published variant. See docs/losses.md."""
