"""README shows what the commands make of the published runs."""

import pytest
import readme


@pytest.mark.parametrize("name", ["verdict", "labels", "unlabelled"])
def test_readme_is_as_the_commands_made_it(name, published_entries):
    (shown,) = readme.between(name).findall(readme.README.read_text(encoding="utf-8"))
    assert shown == readme.blocks(published_entries)[name], "python tests/readme.py writes it anew"
