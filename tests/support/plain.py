"""A plain task for tests of the client: one sentence about an image."""

import json

from captions.perspective import Perspective
from captions.task import Task

PERSPECTIVE = {
    "name": "plain",
    "display_name": "Plain",
    "version": "1",
    "prompt": "Describe the image.",
    "schema_fields": [{"name": "caption", "type": "str", "description": "One sentence."}],
    "table_columns": [{"name": "caption"}],
    "context_template": "",
}
TASK = Task.of(Perspective.parse(json.dumps(PERSPECTIVE)))
