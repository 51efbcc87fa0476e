"""The ways to tune a frozen base, one object each; ``METHODS`` is where they are registered.

    Method     what it puts on a model: peft's config, from the keys of the YAML
    Attached   what is on a model and trains: what it does beside forward and backward passes

What can be told of a method without a model (its keys, the bases that it refuses) is in
``ft.spec.methods``, under the same names.
"""

from ft.model.methods.attached import Attached
from ft.model.methods.registry import METHODS, attach
from ft.model.methods.request import Method, Request

__all__ = ["METHODS", "Attached", "Method", "Request", "attach"]
