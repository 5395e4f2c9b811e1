"""Results as tables for a terminal; a narrow Markdown shape, so that they paste into a chat."""
