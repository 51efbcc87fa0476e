"""The sections of a RunSpec; their door is ft.spec.runspec."""
