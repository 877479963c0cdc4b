"""Each comment belongs to the key that a reader would name."""

from __future__ import annotations

from pathlib import Path

from phi_runtime.config.reading.comments import Comments, attach
from phi_runtime.config.reading.source import KeyPath, read_source


def attached(tmp_path: Path, text: str, name: str) -> dict[KeyPath, Comments]:
    (tmp_path / name).write_text(text, encoding="utf-8")
    return attach(read_source(tmp_path / name))


def in_json(tmp_path: Path, text: str) -> dict[KeyPath, Comments]:
    return attached(tmp_path, text, "c.json")


def in_yaml(tmp_path: Path, text: str) -> dict[KeyPath, Comments]:
    return attached(tmp_path, text, "c.yaml")


def test_a_comment_on_its_own_line_is_about_the_next_key_or_item(tmp_path: Path) -> None:
    expected = {
        ("a",): Comments(before=("about a", "", "more")),
        ("b",): Comments(before=("about b",)),
        ("b", 1): Comments(before=("about 2",)),
        ("b", 1, "x"): Comments(before=("about x",)),
    }
    json = """{
    // about a
    //
    // more
    "a": {"deep": {"deeper": 1}},

    /* about b */ "b": [
        1,
        // about 2
        {
            // about x
            "x": 1
        }
    ]
}"""
    yaml = """
# about a
#
# more
a:
  deep: {deeper: 1}

# about b
b:
  - 1
  # about 2
  -
    # about x
    x: 1
"""
    assert in_json(tmp_path, json) == expected
    assert in_yaml(tmp_path, yaml) == expected


def test_a_comment_beside_something_is_about_the_outermost_that_is_complete_there(tmp_path: Path) -> None:
    expected = {
        ("a",): Comments(trailing="a"),
        ("b",): Comments(trailing="b"),
        ("b", "x"): Comments(trailing="x"),
        ("c",): Comments(trailing="c"),
        ("c", 0): Comments(trailing="item"),
        ("d",): Comments(trailing="d"),
    }
    json = """{
    "a": {"x": [1, 2]}, // a
    "b": { // b
        "w": 0, "x": 1 // x
    },
    "c": [ // c
        {"x": 1}, // item
        2
    ], "d": [] // d
}"""
    yaml = """
a: {x: [1, 2]} # a
b: # b
  w: 0
  x: 1 # x
c: # c
  - {x: 1} # item
  - 2
d: | # d
  text
"""
    assert in_json(tmp_path, json) == expected
    assert in_yaml(tmp_path, yaml) == expected


def test_a_comment_beside_the_dash_is_about_the_item_and_behind_its_first_key_about_that(tmp_path: Path) -> None:
    yaml = "- # item\n  x: 1\n- x: 1 # key\n  y: 2\n- - 1 # inner\n"
    assert in_yaml(tmp_path, yaml) == {
        (0,): Comments(trailing="item"),
        (1, "x"): Comments(trailing="key"),
        (2, 0): Comments(trailing="inner"),
    }


def test_a_comment_beside_the_end_of_a_value_is_about_that_value(tmp_path: Path) -> None:
    expected = {("a",): Comments(trailing="begin end")}
    assert in_json(tmp_path, '{\n"a": { // begin\n"x": [1\n]} // end\n}') == expected
    assert in_yaml(tmp_path, "a: [ # begin\n  1,\n  ] # end\n") == expected
    assert in_yaml(tmp_path, "a: several\n  lines # end\n") == {("a",): Comments(trailing="end")}


def test_a_comment_that_nothing_follows_comes_after_the_last_key_of_its_group(tmp_path: Path) -> None:
    expected = {
        ("a", "x"): Comments(after=("after x", "more")),
        ("b",): Comments(before=("about b",)),
        ("b", 1): Comments(after=("after 2",)),
        ("b", 1, 0): Comments(after=("after 3",)),
    }
    json = """{
    "a": {
        "x": 1
        // after x
        // more
    },
    // about b
    "b": [
        2,
        [
            3
            // after 3
        ]
        // after 2
    ]
}"""
    yaml = """
a:
  x: 1
  # after x
  # more
# about b
b:
  - 2
  - - 3
    # after 3
  # after 2
"""
    assert in_json(tmp_path, json) == expected
    assert in_yaml(tmp_path, yaml) == expected


def test_a_list_at_the_margin_of_its_key_leaves_the_comment_below_to_the_next_key(tmp_path: Path) -> None:
    assert in_yaml(tmp_path, "a:\n- 1\n# about b\nb: 2\n") == {("b",): Comments(before=("about b",))}


def test_a_comment_without_any_key_in_its_brackets_is_about_the_brackets(tmp_path: Path) -> None:
    assert in_json(tmp_path, '{"a": {\n// none\n}}') == {("a",): Comments(before=("none",))}
    assert in_yaml(tmp_path, "a: [\n  # none\n  ]\n") == {("a",): Comments(before=("none",))}


def test_what_stands_above_and_below_everything_is_about_the_file(tmp_path: Path) -> None:
    expected = {(): Comments(before=("header",), after=("footer",)), ("a",): Comments(before=("about a",))}
    assert in_json(tmp_path, '// header\n{\n  // about a\n  "a": 1\n}\n// footer') == expected
    assert in_yaml(tmp_path, "# header\n\n# about a\na: 1\n\n# footer\n") == expected
    assert in_yaml(tmp_path, "# header\n---\n# about a\na: 1\n...\n# footer\n") == expected


def test_without_a_blank_line_yaml_says_it_of_its_first_and_last_key(tmp_path: Path) -> None:
    expected = {("a",): Comments(before=("about a", "more")), ("b",): Comments(after=("after b",))}
    assert in_yaml(tmp_path, "# about a\n# more\na: 1\nb:\n  c: 1\n# after b\n") == expected


def test_without_keys_all_is_about_the_file(tmp_path: Path) -> None:
    assert in_json(tmp_path, "// a\n{} // b\n// c\n") == {(): Comments(("a",), "b", ("c",))}
    assert in_yaml(tmp_path, "# a\n{} # b\n# c\n") == {(): Comments(("a",), "b", ("c",))}


def test_a_comment_of_several_lines_becomes_lines(tmp_path: Path) -> None:
    expected = {("a",): Comments(before=("one", "two"), trailing="three four")}
    assert in_json(tmp_path, '{ /* one\n * two\n */\n "a": 1 /* three\n four */ }') == {
        (): Comments(trailing="one two"),
        ("a",): Comments(trailing="three four"),
    }
    assert in_json(tmp_path, '{\n /* one\n  * two\n */\n "a": 1 /* three\n four */ }') == expected


def test_the_comments_of_a_merge_are_found_under_its_sign(tmp_path: Path) -> None:
    yaml = "a: &a {x: 1}\nb:\n  # why\n  <<: *a # what\n  y: 2\n"
    assert in_yaml(tmp_path, yaml) == {("b", "<<"): Comments(before=("why",), trailing="what")}
