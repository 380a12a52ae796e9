"""A hook of mkdocs (see .mkdocs.yml): files of the project that a page links to, as in [a script](../launch/local.sh), become
part of the site, so that such a link leads somewhere both there and where the project's own files are looked at."""

import re
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

OUTSIDE = re.compile(r"\]\(\.\./([\w./-]+)\)")
FOLDER = "project"  # of the site


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Called by mkdocs with all files of the site: those that pages link to are added, where they exist."""
    root = Path(str(config.config_file_path)).parent
    for page in files.documentation_pages():
        for name in OUTSIDE.findall(page.content_string):
            to = f"{FOLDER}/{name}"
            if (root / name).is_file() and files.get_file_from_path(to) is None:
                files.append(File.generated(config, to, abs_src_path=str(root / name)))
    return files


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Called by mkdocs with the text of each page."""
    return OUTSIDE.sub(rf"]({FOLDER}/\1)", markdown)
