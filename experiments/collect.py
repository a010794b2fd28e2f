"""Makes the tables of a grid from its files alone: Markdown, CSV, HTML and LaTeX.

    python -m experiments.collect DIR [--readme=README.md]

`--readme` replaces what stands between the lines `<!-- results of NAME -->` and
`<!-- end of results -->`, NAME the name of DIR.
"""

from absl import flags

from ad3d_jax.experiment.table_files import put_into, write_tables
from ad3d_jax.workdir.places import local
from experiments import command


def main(values: flags.FlagValues, folders: list[str]) -> None:
    """Runs the command."""
    if len(folders) != 1:
        raise flags.Error("name one folder of a grid")
    folder = local(folders[0], "folder")
    paths = write_tables(folder)
    if values.readme:
        content = paths[0].read_text(encoding="utf-8")
        put_into(local(values.readme, "readme"), folder.resolve().name, content)
    print(*paths, sep="\n")


if __name__ == "__main__":
    flags.DEFINE_string("readme", "", "Text whose results are replaced.")
    command.run(main, positional=True)
