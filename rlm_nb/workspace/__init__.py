"""Worktrees: where agents work, and how their edits are kept."""
