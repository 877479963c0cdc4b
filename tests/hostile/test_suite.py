"""The hostile suite: each case, and the test that holds it. SECURITY.md names the same tests for what is not allowed."""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
HOSTILE, RUNTIME, SCAFFOLD = "tests/hostile", "tests/phi_runtime", "tests/phi_scaffold"
ARTIFACTS = f"{RUNTIME}/core/test_artifacts.py"
CANARIES = f"{HOSTILE}/test_canaries.py"
CARD = f"{RUNTIME}/report/test_card.py"
CLI = f"{SCAFFOLD}/test_cli.py"
COMMAND = f"{RUNTIME}/serving/test_command.py"
CONNECTIONS = f"{RUNTIME}/serving/test_connections.py"
DATA = f"{HOSTILE}/test_data.py"
DATA_HUB = f"{RUNTIME}/data/test_hub.py"
DOCUMENT = f"{RUNTIME}/report/test_document.py"
DOTENV = f"{RUNTIME}/core/test_dotenv.py"
FETCH = f"{RUNTIME}/pipeline/test_fetch.py"
HUB = f"{HOSTILE}/test_hub.py"
INERT = f"{SCAFFOLD}/test_inert.py"
MODEL = f"{HOSTILE}/test_model.py"
PROJECT = f"{HOSTILE}/test_project.py"
REFUSALS = f"{RUNTIME}/serving/test_refusals.py"
SOURCE = f"{RUNTIME}/config/test_source.py"
TRUST = f"{RUNTIME}/core/test_trust.py"
UPDATE = f"{SCAFFOLD}/test_update.py"
CASES = {
    # a project
    "a .venv that came with it": f"{CLI}::test_an_environment_that_came_with_the_project_runs_only_when_the_user_trusts_it",
    "an environment in which everyone writes": f"{PROJECT}::test_an_environment_in_which_everyone_writes_is_not_used",
    "a .venv that is a link to another user's": f"{PROJECT}::test_an_environment_behind_a_link_belongs_to_its_owner",
    "a folder of another user above": f"{TRUST}::test_a_project_of_another_user_above_the_current_folder_is_not_taken",
    "a folder of another user between": f"{TRUST}::test_the_search_ends_at_a_folder_of_another_user",
    "hooks.py": f"{CLI}::test_hooks_of_a_project_that_came_from_elsewhere_do_not_run",
    "hooks.py through the API": f"{PROJECT}::test_the_api_runs_hooks_only_of_a_trusted_project",
    "hooks.py in commands that read": f"{PROJECT}::test_commands_that_only_read_run_no_code_of_the_project",
    "metrics that evaluation.json names": f"{PROJECT}::test_hooks_that_evaluation_json_names_do_not_run",
    "user_script": f"{PROJECT}::test_a_user_script_runs_only_in_a_trusted_project",
    "sitecustomize, .pth and names of libraries": f"{PROJECT}::test_modules_of_the_project_do_not_replace_libraries",
    "programs of a git repository": f"{PROJECT}::test_programs_that_the_repository_names_do_not_run",
    "programs of a git repository under update": f"{UPDATE}::test_a_project_of_others_runs_no_programs_of_its_repository",
    "links under update": f"{UPDATE}::test_files_are_not_written_through_links",
    "permissions in the record of a run": f"{PROJECT}::test_a_recorded_run_gives_itself_no_permission",
    "paths in the record of a run": f"{PROJECT}::test_a_recorded_run_writes_no_config_outside_of_the_project",
    "pickles in a checkpoint": f"{PROJECT}::test_a_planted_checkpoint_with_pickles_runs_no_code",
    "links in folders of outputs": f"{PROJECT}::test_outputs_are_not_written_through_a_link",
    "links under clean": f"{PROJECT}::test_clean_deletes_nothing_behind_a_link",
    "a link in the place of a lock": f"{PROJECT}::test_a_planted_lock_empties_no_file",
    "a link in the place of a new file": f"{ARTIFACTS}::test_a_link_is_replaced_and_not_followed",
    "a link in the place of a backup": f"{ARTIFACTS}::test_a_backup_never_goes_through_a_link",
    "a link in the place of a download": f"{FETCH}::test_a_link_in_the_place_of_a_partial_download_is_not_followed",
    "links under new --force": f"{PROJECT}::test_new_with_force_follows_no_link_of_the_folder",
    "names of passes and tasks with `../`": f"{PROJECT}::test_names_of_a_config_that_become_files_stay_in_the_project",
    ".env with PYTHONPATH and 40 others": f"{PROJECT}::test_env_sets_no_variable_that_runs_code_or_moves_folders",
    ".env with a hub": f"{DOTENV}::test_the_token_of_the_user_is_not_sent_to_a_server_of_the_project",
    ".env with a hub, after a login": f"{DOTENV}::test_the_token_of_the_login_is_not_sent_either",
    ".env with a hub over http": f"{HUB}::test_a_hub_is_reached_by_https_alone_if_a_project_names_it",
    ".env with a tracker": f"{PROJECT}::test_a_tracker_of_the_project_gets_no_stored_login",
    "tasks, migrations and secrets of copier": f"{PROJECT}::test_answers_of_another_project_are_only_answers",
    "answers that construct objects": f"{PROJECT}::test_answers_with_tags_construct_no_objects",
    "settings of editors": f"{PROJECT}::test_settings_of_editors_and_of_copier_are_inert",
    # a hub
    "names outside of the folder": f"{FETCH}::test_a_file_name_that_leaves_the_folder_is_refused_before_any_download",
    "names with control characters, of Windows": f"{HUB}::test_a_file_name_that_no_folder_should_have_is_refused",
    "names that differ in case": f"{HUB}::test_names_that_differ_only_in_case_are_refused",
    "wrong hashes of weights": f"{FETCH}::test_weights_that_arrive_damaged_are_not_kept",
    "wrong ids of small files": f"{FETCH}::test_a_file_with_another_blob_id_is_refused",
    "wrong sizes": f"{HUB}::test_a_body_of_another_size_is_refused",
    "an endless file": f"{HUB}::test_an_endless_file_ends_at_its_announced_size",
    "a file without a size": f"{HUB}::test_a_file_without_a_size_leaves_room_on_the_disk",
    "a compressed file": f"{HUB}::test_a_compressed_file_ends_at_its_announced_size",
    "an endless, compressed or huge list": f"{HUB}::test_the_list_of_files_is_bounded",
    "redirects to another host": f"{HUB}::test_a_redirect_takes_no_token_to_another_host",
    "redirects in a circle": f"{HUB}::test_redirects_in_a_circle_end",
    "answers that are none": f"{HUB}::test_an_answer_that_is_none_is_the_fault_of_the_hub",
    "escape sequences in errors": f"{HUB}::test_an_error_page_with_escape_sequences_is_shown_inert",
    "pickles and Python files": f"{FETCH}::test_neither_pickles_nor_code_are_downloaded",
    "a data set with a loading script": f"{DATA_HUB}::test_a_loading_script_is_neither_run_nor_downloaded",
    "the embedded model, with other weights": f"{FETCH}::test_a_wheel_with_another_file_in_it_is_refused",
    "the token of another hub": f"{PROJECT}::test_the_token_of_another_hub_is_not_sent_to_the_data_set_viewer",
    # a model
    "20 headers of safetensors": f"{MODEL}::test_a_header_of_weights_that_is_none_has_no_tensors",
    "overlapping weights": f"{MODEL}::test_overlapping_and_missing_bytes_are_refused_by_the_reader",
    "pickled weights": f"{MODEL}::test_pickled_weights_are_not_loaded",
    "a pickled adapter": f"{MODEL}::test_a_pickled_adapter_is_refused",
    "auto_map": f"{MODEL}::test_python_code_of_a_model_does_not_run",
    "an architecture in Python": f"{MODEL}::test_an_unknown_architecture_with_code_is_refused",
    "kernels of the Hub": f"{MODEL}::test_code_and_models_of_the_hub_that_a_config_names_are_not_loaded",
    "13 kinds of config.json": f"{MODEL}::test_a_config_of_a_model_that_is_none_ends_no_command_with_a_traceback",
    "a deep config.json": f"{MODEL}::test_a_json_file_of_a_model_that_is_nested_too_deeply_is_unreadable",
    "an adapter with a base elsewhere": f"{MODEL}::test_the_base_that_an_adapter_names_is_not_loaded",
    "libraries in genai_config.json": f"{MODEL}::test_an_onnx_model_names_no_library",
    "a graph elsewhere": f"{MODEL}::test_an_onnx_model_has_no_graph_elsewhere",
    "external data elsewhere": f"{MODEL}::test_external_data_of_a_graph_stays_in_its_folder",
    "genai_config.json that is none": f"{MODEL}::test_a_genai_config_that_is_none_is_an_error",
    # data, configs, guides
    "pipes, devices and circles as data": f"{DATA}::test_a_data_file_that_is_no_file_is_refused_at_once",
    "a circle of links": f"{DATA}::test_a_circle_of_links_among_the_data_ends",
    "a compressed bomb": f"{DATA}::test_a_compressed_line_of_gigabytes_is_one_bad_row",
    "a bomb in a workbook": f"{DATA}::test_a_workbook_that_unpacks_to_gigabytes_is_refused",
    "deep JSON": f"{DATA}::test_rows_and_configs_that_nest_too_deeply_are_errors",
    "aliases of aliases in YAML": f"{SOURCE}::test_aliases_of_aliases_end_at_the_limit_instead_of_filling_the_memory",
    "tags in YAML": f"{DATA}::test_tags_of_a_yaml_config_construct_nothing",
    "escape sequences in names": f"{DATA}::test_names_that_a_terminal_obeys_or_hides_are_shown",
    "escape sequences in data": f"{INERT}::test_no_command_writes_what_data_and_keys_tell_the_terminal",
    "escape sequences in answers": f"{DATA}::test_an_answer_of_a_model_cannot_act_on_a_terminal",
    "formulas": f"{DATA}::test_no_cell_that_is_written_is_a_formula",
    "markup in a report": f"{DOCUMENT}::test_nothing_in_the_data_acts",
    "markup in a model card": f"{CARD}::test_no_path_no_markup_of_data_and_no_placeholder_is_in_a_card",
    "small schemas of much memory": f"{DATA}::test_a_small_schema_that_takes_all_memory_is_refused",
    "long guides": f"{DATA}::test_a_long_guide_is_refused",
    # an HTTP client
    "no key, a wrong key": f"{REFUSALS}::test_who_has_not_the_key_is_refused_and_the_key_is_in_no_log",
    "a public address without a key": f"{COMMAND}::test_a_public_address_needs_a_key",
    "names of other hosts (rebinding)": f"{REFUSALS}::test_without_a_key_only_this_machine_is_served_by_its_own_names",
    "forms of a web page": f"{REFUSALS}::test_a_page_cannot_post_a_form",
    "large bodies": f"{REFUSALS}::test_a_body_of_10_mb_is_too_large",
    "two lengths": f"{REFUSALS}::test_a_body_with_two_lengths_is_refused",
    "silent connections": f"{CONNECTIONS}::test_a_connection_without_a_complete_request_is_closed",
    "many connections": f"{CONNECTIONS}::test_more_connections_than_the_limit_are_closed_and_the_others_served",
    # secrets
    "secrets in outputs": f"{CANARIES}::test_no_secret_is_written_or_printed",
    "secrets in tracebacks": f"{CANARIES}::test_a_traceback_shows_no_secret",
    "secrets in complete runs and servers": f"{CANARIES}::test_no_secret_is_in_a_complete_run_or_a_server",
}  # fmt: skip


@cache
def functions(file: str) -> set[str]:
    tree = ast.parse((ROOT / file).read_text(encoding="utf-8"))
    return {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}


def is_a_test(test: str) -> bool:
    file, _, name = test.partition("::")
    return (ROOT / file).is_file() and (not name or name in functions(file))


@pytest.mark.parametrize("case", CASES)
def test_each_case_has_its_test(case: str) -> None:
    assert is_a_test(CASES[case])


def test_every_hostile_test_is_a_case() -> None:
    written = {
        f"{HOSTILE}/{file.name}::{name}"
        for file in (ROOT / HOSTILE).glob("test_*.py")
        for name in functions(f"{HOSTILE}/{file.name}")
        if name.startswith("test_") and file.name != "test_suite.py"
    }
    helpers = {"test_a_project_without_links_writes_its_outputs", "test_a_secret_is_found_in_every_form"}
    assert {test for test in written - set(CASES.values()) if test.partition("::")[2] not in helpers} == set()
    assert len(CASES) >= 60


def test_what_the_threat_model_forbids_has_tests() -> None:
    text = (ROOT / "SECURITY.md").read_text(encoding="utf-8")
    rows = [line for line in text.partition("## Threat model")[2].splitlines() if line.startswith("| ")][2:]
    assert len(rows) >= 7
    for row in rows:
        tests = re.findall(r"`(tests/[\w/.]+)`", row)
        assert tests, row
        assert all(map(is_a_test, tests)), row
