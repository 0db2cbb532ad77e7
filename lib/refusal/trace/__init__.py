"""The only room that opens traces: prompts with positions, edits, states, scores, answers, and results kept
on disk.
"""
