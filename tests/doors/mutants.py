"""Do the attacks bite: every defence taken out once, and the attack that must show it; `tests/mutate/run.py --doors`."""

from tests.mutate.mutants import Mutant

DOORS, BOOT, LOOKING, ANSWERING = (f"workbench/ui/{n}.py" for n in ("doors", "boot", "looking", "answering"))
CONFIG = ".streamlit/config.toml"
PATHS, YAML, LOCKS, TEXT, SPEC = (f"workbench/core/{n}.py" for n in ("paths", "safe_yaml", "locks", "text", "spec"))
FOREIGN, FIELDS, TENSORS, MANIFEST = (
    f"workbench/export/{n}.py" for n in ("foreign", "foreign_config", "foreign_tensors", "manifest")
)
STATE, CONTRACT, HEAD = "workbench/kernel/state.py", "workbench/tasks/contract.py", "workbench/evaluate/saved.py"
BUNDLED, SETTINGS = "workbench/models/bundled.py", "workbench/models/settings.py"
FILES, TABULAR, IMAGES, POOLS, HUB = (f"workbench/data/{n}.py" for n in ("files", "tabular", "images", "pools", "hub"))
DETACH, ENGINE, FAILURES, CALLER = (
    *(f"workbench/jobs/{n}.py" for n in ("detach", "engine", "failures")),
    "workbench/__main__.py",
)
ADAPTERS, KEPT, TERMINAL = (f"workbench/services/{n}.py" for n in ("adapters", "files", "tables"))
DOCUMENT, STYLE, CARD = "workbench/figures/document.py", "workbench/figures/style.py", "workbench/export/card.py"
CLIENT = "tracking/client.py"


def _server(name: str) -> str:
    return f"'tests/doors/test_server.py::test_{name}'"


def _opened(case: str) -> str:
    return _server(f"every_way_to_open_the_server_is_one_sentence[{case}]")


def _path(case: str) -> str:
    return f"'tests/doors/test_paths.py::test_a3_a_hostile_name_leads_nowhere[{case}]'"


def _yaml(case: str) -> str:
    return f"'tests/core/test_safe_yaml.py::test_bad_documents_get_one_sentence[{case}]'"


def _damaged(case: str) -> str:
    return f"'tests/bad_inputs/test_adapters.py::test_a_bad_adapter_folder_is_one_sentence[{case}]'"


def _changed(case: str) -> str:
    return f"'tests/export/test_import.py::test_verify_refuses_what_was_changed[{case}]'"


def _folder(name: str) -> str:
    return f"'tests/doors/test_folders.py::test_{name}'"


def _limit(name: str) -> str:
    return f"'tests/doors/test_limits.py::test_{name}'"


def _process(name: str) -> str:
    return f"tests/doors/test_processes.py::test_{name}"


def _shown(case: str) -> str:
    return f"'tests/doors/test_shown.py::test_a10_hostile_text_is_inert[{case}]'"


MUTANTS = [
    # --- who may come in
    Mutant(DOORS, "        raise SystemExit(sentence)\n", "        pass\n", "an open server starts",
           _opened("values0-every interface")),
    Mutant(DOORS, "if not names or any(", "if any(", "every host name is answered", _opened("values2-allowedHosts")),
    Mutant(DOORS, 'if not names or any("*" in name for name in names):', "if not names:", "hosts may be wildcards",
           _server("a_login_is_no_leave_for_every_host_name")),
    Mutant(DOORS, "    if address not in LOOPBACK:", "    if False:", "others are let in without a login",
           _opened("values1-192.168.1.5")),
    Mutant(DOORS, "    if not set(names) <= LOOPBACK:", "    if False:", "a foreign host name is answered",
           _opened("values6-evil.example")),
    Mutant(DOORS, '    if not st.get_option("server.enableXsrfProtection") or', "    if", "uploads need no token",
           _opened("values7-must stay on")),
    Mutant(DOORS, ' or not st.get_option("server.enableCORS"):', ":", "every site may ask", _opened("values8-must stay on")),
    Mutant(DOORS, '("server.corsAllowedOrigins", "server.trustedUserHeaders")', '("server.trustedUserHeaders",)',
           "a site may be let in", _opened("values9-corsAllowedOrigins must be empty")),
    Mutant(DOORS, '("server.corsAllowedOrigins", "server.trustedUserHeaders")', '("server.corsAllowedOrigins",)',
           "a header names the user", _opened("values10-trustedUserHeaders must be empty")),
    Mutant(DOORS, "and len(secret) < SHORTEST:", "and False:", "a short secret is taken",
           _server("a_short_secret_does_not_open_the_door[short]")),
    Mutant(DOORS, "    if len(str(login[\"cookie_secret\"])) < SHORTEST:", "    if False:", "a short cookie secret is taken",
           _server("half_a_login_does_not_open_the_door[secrets1-at least 32]")),
    Mutant(DOORS, ' and str(one) != "*@"', "", "everybody may log in",
           _server("half_a_login_does_not_open_the_door[secrets5-users must be a list]")),
    Mutant(DOORS, "hmac.compare_digest((given or", "bool((given or", "any proxy secret is right",
           _server("the_proxys_secret_is_compared_whole_and_in_constant_time")),
    Mutant(DOORS, "return hmac.compare_digest((given or \"\").encode(\"utf-8\", \"replace\"), self.secret.encode())",
           "return given == self.secret", "a secret is compared letter by letter",
           _server("the_proxys_secret_is_compared_whole_and_in_constant_time")),
    Mutant(DOORS, "        if self.guard.secret and not self.guard.knows(headers.get(self.guard.header)):", "        if False:",
           "a proxy's secret is not asked for", _server("with_a_proxys_secret_nothing_is_answered_without_it")),
    Mutant(DOORS, " and named and user", " and user", "everybody with an account is welcome", _server("who_is_welcome")),
    Mutant(DOORS, ' and user.get("email_verified") is not False', "", "an unproved address is welcome",
           _server("who_is_welcome")),
    Mutant(DOORS, 'bool(user.get("is_logged_in")) and ', "", "nobody needs to log in", _server("who_is_welcome")),
    Mutant(DOORS, "    if not known.users or known.welcomes(st.user.to_dict()):\n        return", "    return",
           "a page shows before the login", _server("a_page_by_itself_shows_nothing_before_the_login")),
    Mutant(DOORS, "    if known.secret and not known.knows(st.context.headers.get(known.header)):", "    if False:",
           "a page by itself asks for no secret", _server("a_page_by_itself_shows_nothing_before_the_login")),
    Mutant(BOOT, "doors.problem() or ", "", "a page by itself serves others",
           "tests/pages/test_pages.py::test_a_page_stops_where_others_reach_the_server"),
    Mutant(DOORS, '        if not self._ours(headers.getlist("host")):', "        if False:", "a rebound host is answered",
           _server("a1_every_other_request_of_another_host_is_refused[evil.example-/]")),
    Mutant(DOORS, '"@" not in given[0] and ', "", "a host may have a user", _server("a1_a_host_is_one_plain_name[user]")),
    Mutant(DOORS, "if len(given) == 1 else None", "if given else None", "a second host is not looked at",
           _server("a1_a_host_is_one_plain_name[twice]")),
    Mutant(DOORS, "parts.netloc == given[0] and ", "", "a host may have a path", _server("a1_a_host_is_one_plain_name[path]")),
    Mutant(DOORS, "        if not self._from_us(scope, headers):", "        if False:", "pages of other ports open a session",
           _server("a1_websocket_of_another_host_or_origin_is_refused[another port]")),
    Mutant(DOORS, 'scope["method"] in ("GET", "HEAD")', "True", "other sites may send forms",
           _server("a2_a_cross_site_form_reaches_nothing")),
    Mutant(DOORS, "                MutableHeaders(scope=message).update(HARDENING)", "                pass",
           "answers may be framed", _server("a2_no_site_may_frame_the_app_open_it_as_its_popup_or_read_its_answers")),
    Mutant(DOORS, "status, headers=HARDENING)", "status)", "refusals may be framed",
           _server("a2_no_site_may_frame_the_app_open_it_as_its_popup_or_read_its_answers")),
    Mutant(DOORS, '    "X-Content-Type-Options": "nosniff",\n', "", "a browser guesses types",
           _server("a2_no_site_may_frame_the_app_open_it_as_its_popup_or_read_its_answers")),
    Mutant(DOORS, "img-src 'self' data: blob:", "img-src * data: blob:", "a picture in a text asks its site",
           _server("a2_no_site_may_frame_the_app_open_it_as_its_popup_or_read_its_answers")),
    Mutant(DOORS, "    keep_others_out()\n", "", "the app's files are everybody's",
           _server("a14_the_app_writes_for_its_owner_alone")),
    Mutant(CONFIG, 'allowedHosts = ["localhost", "127.0.0.1"]\n', "", "the shipped hosts are all",
           _server("a_visitor_of_this_machine_sees_the_page")),
    # --- names and places
    Mutant(PATHS, "not path.is_relative_to(root) or ", "", "a name leads out of its place", _path("artifact-absolute file")),
    Mutant(PATHS, " or path == root:", ":", "a name is the place itself",
           "tests/core/test_spec.py::test_names_never_lead_out_of_their_folder"),
    Mutant(PATHS, "named(root.joinpath(*names))", "Path(os.path.normpath(root.joinpath(*names)))",
           "a link leads out of its place", "tests/doors/test_paths.py::test_a3_pictures_of_a_table_stay_inside_its_folder"),
    Mutant(PATHS, 're.compile(r"[A-Za-z0-9]', 're.compile(r"[A-Za-z0-9.]', "a name may be hidden",
           "tests/export/test_import.py::test_bad_names_are_refused"),
    Mutant(PATHS, ' or name.endswith(".")', "", "a name may end in a dot", _path("name-trailing dot")),
    Mutant(PATHS, "SAFE_NAME.fullmatch(name)", "SAFE_NAME.match(name)", "a name may go on after a slash",
           _path("name-inner up")),
    Mutant(PATHS, " or max(map(len, os.fsencode(text).split(b\"/\"))) > LONGEST_PART", "", "a part of a path may be any length",
           _path("to-long part")),
    Mutant(ADAPTERS, "    if target.exists() and (not", "    if False and (not", "an export replaces what is there",
           "tests/doors/test_paths.py::test_a3_an_export_never_replaces_what_is_not_an_export"),
    Mutant(POOLS, "str(inside(origin.parent, cell))", "str(origin.parent / cell)", "a picture is read anywhere",
           "tests/doors/test_paths.py::test_a3_pictures_of_a_table_stay_inside_its_folder"),
    Mutant(KEPT, "bare = PurePosixPath(name.replace(\"\\\\\", \"/\")).name", "bare = name", "an upload keeps its folders",
           "tests/doors/test_paths.py::test_a3_an_upload_is_kept_under_its_hash"),
    Mutant(KEPT, " and not p.is_symlink())", ")", "a download follows links",
           "tests/pages/test_seams.py::test_a_zip_holds_the_folder_without_links"),
    Mutant(MANIFEST, "or file_sha256(file) != digest:", "or False:", "an export may be changed", _changed("weights")),
    Mutant(MANIFEST, "    if added := there", "    if False and there", "a file may be added to an export",
           _changed("a file was added")),
    Mutant(MANIFEST, '    if not {(k, type(v)) for k, v in load["settings"].items()} <=', "    if not set() <=",
           "an export names how transformers loads it", _changed("code for the base")),
    Mutant(MANIFEST, '            and load["auto"].startswith("AutoModelFor")\n', "", "an export names a class",
           _changed("another loader")),
    # --- YAML of others
    Mutant(YAML, "        if self.check_event(yaml.AliasEvent):", "        if False:", "YAML has aliases", _yaml("alias")),
    Mutant(YAML, " or key in seen:", ":", "YAML keys come twice", _yaml("twice")),
    Mutant(YAML, "        if self.depth > MAX_DEPTH:", "        if False:", "YAML has any depth",
           _limit("a11_no_input_runs_away[100 levels]")),
    Mutant(YAML, "    if len(raw) > MAX_BYTES:", "    if False:", "YAML has any size",
           "tests/core/test_safe_yaml.py::test_large_documents_are_refused"),
    Mutant(YAML, "    if len(node.value) > MAX_DIGITS:", "    if False:", "YAML numbers have any length",
           _limit("a11_no_input_runs_away[1,000 digits]")),
    Mutant(YAML, "class _Loader(yaml.SafeLoader):", "class _Loader(yaml.UnsafeLoader):", "YAML makes objects", _yaml("tag")),
    # --- adapters and models of others
    Mutant(FIELDS, "            or not all(isinstance(n, str) and LITERAL.fullmatch(n) for n in value)\n", "",
           "a target is a pattern", _damaged("more: pattern in the list")),
    Mutant(FIELDS, "            not isinstance(value, list)\n            or", "            ", "all targets are one pattern",
           _folder("a6_an_adapters_configuration_never_runs_code_or_patterns[pattern of dots]")),
    Mutant(FIELDS, " or not all(LITERAL.fullmatch(n) for n in value):", ":", "a rank has a pattern",
           _damaged("more: pattern of ranks")),
    Mutant(FIELDS, '    _check_mapping(config.get("auto_mapping"))\n', "", "an adapter names a module to import",
           _damaged("config: import field auto_mapping")),
    Mutant(FIELDS, "LIBRARY.fullmatch(library)", "LIBRARY.match(library)", "a module name goes on",
           _folder("a6_an_adapters_configuration_never_runs_code_or_patterns[mapping that goes on]")),
    Mutant(FIELDS, "        if name not in known:", "        if False:", "an unknown field is passed over",
           _damaged("config: import field tokenizer_kwargs")),
    Mutant(FIELDS, '        if value != getattr(default, "value", default):', "        if False:", "a field is passed over",
           _damaged("more: bias")),
    Mutant(FIELDS, "        if config.get(field):\n", "        if False:\n", "peft is let loose on fields that run",
           _folder("a6_an_adapters_configuration_never_runs_code_or_patterns[tokenizer arguments]")),
    Mutant(FIELDS, '    if config.get("megatron_core") not in (None, "megatron.core"):', "    if False:",
           "peft imports what it is told", _folder("a6_an_adapters_configuration_never_runs_code_or_patterns[megatron]")),
    Mutant(FIELDS, ' or "://" in base:', ":", "a base is an address", _damaged("config: base = URL")),
    Mutant(FIELDS, "    if len(found) != len(pairs):\n        raise ValueError(\"a key",
           "    if False:\n        raise ValueError(\"a key", "a configuration says two things", _damaged("config: twin keys")),
    Mutant(FIELDS, "    if path.stat().st_size > MAX_CONFIG_BYTES:", "    if False:", "a configuration has any size",
           _limit("a13_what_is_too_large_is_refused_at_once[5 MB adapter_config]")),
    Mutant(FIELDS, "path = inside(folder, WEIGHTS)", "path = folder / WEIGHTS", "weights are a link",
           _damaged("folder: link to outside")),
    Mutant(FIELDS, "    if others:\n", "    if False:\n", "two files of weights", _damaged("folder: two weights")),
    Mutant(FIELDS, "float(tensor.abs().max()) > MAX_VALUE:", "False:", "weights are huge", _damaged("values: 1e30")),
    Mutant(STATE, "and not torch.isfinite(tensor).all():", "and False:", "weights are no numbers", _damaged("values: NaN")),
    Mutant(STATE, "    if len(set(keys)) != len(keys):", "    if False:", "a tensor comes twice",
           _folder("a6_weights_named_twice_or_changed_afterwards_are_refused")),
    Mutant(STATE, "or file_sha256(folder / name) != hashes[name]):", "or False):", "an adapter may be changed",
           _folder("a6_weights_named_twice_or_changed_afterwards_are_refused")),
    Mutant(TENSORS, "    if odd := tensors.keys() - used:", "    if odd := set():", "a tensor is passed over",
           _damaged("values: unexpected tensor")),
    Mutant(FOREIGN, "        if not there or any(not under(p, paths) for p in there):", "        if False:",
           "a head replaces the base", _damaged("config: modules_to_save naming base tensors")),
    Mutant(FOREIGN, 'if "quantization_config" in', "if False and", "a base is quantised",
           _damaged("base mismatch: quantised")),
    Mutant(HEAD, '    if now != base["sha256"]:', "    if False:", "an adapter goes on other weights",
           "tests/export/test_import.py::test_verify_sees_a_base_that_changed"),
    Mutant(BUNDLED, "    if weights_sha256(folder) != MINILM_SHA256:", "    if False:", "bundled weights may be altered",
           _limit("a16_bundled_weights_that_were_altered_are_refused")),
    Mutant(BUNDLED, '    if weights and not any(p.is_file() for p in folder.glob("*.safetensors")):', "    if False:",
           "a base is a pickle", "tests/models/test_names.py::test_local_folders"),
    Mutant(BUNDLED, 'wanted = [*(["*.safetensors"] if weights else []), *SETTINGS]', 'wanted = ["*"]', "code is downloaded",
           "tests/models/test_names.py::test_hub_download_brings_safetensors_and_settings_only"),
    Mutant(BUNDLED, 'if not HUB_ID.fullmatch(source) or ".." in source:', "if False:", "a model may be an address",
           "tests/models/test_names.py::test_no_model_at_all"),
    Mutant(HUB, 'HUB_ID.fullmatch(source) is not None and ".." not in source', "HUB_ID.match(source) is not None",
           "data may be an address", "tests/data/test_hub.py::test_no_hub_ids"),
    Mutant(BUNDLED, "    settings.check(folder)\n", "", "a base names code to fetch",
           _folder("a6_a_base_models_files_never_run_code[attention kernel]")),
    Mutant(SETTINGS, "local_files_only=True, trust_remote_code=False", "local_files_only=True, trust_remote_code=True",
           "a base brings code", _folder("a6_a_base_models_files_never_run_code[code for a type of its own]")),
    Mutant(CONTRACT, "config=settings, use_safetensors=True,", "config=settings,", "a base may be a pickle",
           _folder("a5_weights_that_are_a_good_pickle_are_not_read_beside_safetensors_either[None]")),
    Mutant(SETTINGS, "        if not (isinstance(shard, str) and SHARD.fullmatch(shard)):", "        if False:",
           "an index names a pickle",
           _folder("a5_weights_that_are_a_good_pickle_are_not_read_beside_safetensors_either[pytorch_model.bin]")),
    Mutant(SETTINGS, 're.compile(r"[^/\\\\]+\\.safetensors")', 're.compile(r".+")', "an index leads elsewhere",
           _folder("a6_a_base_models_files_never_run_code[weights outside]")),
    Mutant(SETTINGS, 'value.get("transformers_weights") or', "", "a configuration names the weights",
           _folder("a6_a_base_models_files_never_run_code[weights named]")),
    Mutant(SETTINGS, "    if (folder / ADAPTER).exists():", "    if False:", "a base names another base",
           _folder("a6_a_base_models_files_never_run_code[another base]")),
    # --- files of others
    Mutant(FILES, "    if info.st_size > MAX_BYTES:", "    if False:", "a table has any size",
           _limit("a13_what_is_too_large_is_refused_at_once[2 GB table]")),
    Mutant(FILES, "    if not stat.S_ISREG(info.st_mode):", "    if False:", "a device is read",
           "tests/data/test_sources.py::test_missing_folder_device_and_address"),
    Mutant(TABULAR, "    if len(columns) > 10_000:", "    if False:", "a table has any width",
           _limit("a13_what_is_too_large_is_refused_at_once[10,001 columns]")),
    Mutant(TABULAR, "csv.field_size_limit(MAX_CELL)", "csv.field_size_limit(2**31 - 1)", "a cell has any size",
           _limit("a13_what_is_too_large_is_refused_at_once[11 MB cell]")),
    Mutant(IMAGES, "        if opened.width * opened.height > MAX_PIXELS:", "        if False:", "a picture is a bomb",
           _limit("a13_what_is_too_large_is_refused_at_once[60 million pixels]")),
    Mutant(SPEC, "min_length=1, max_length=500)\n    training", "min_length=1)\n    training",
           "a spec has any number of methods", _limit("a13_what_is_too_large_is_refused_at_once[100,000 methods]")),
    # --- processes
    Mutant(DETACH, '"-P", "-m", module', '"-m", module', "a worker imports what lies there",
           f"{_process('a7_modules_planted_in_the_current_folder_never_run')}[worker]"),
    Mutant(DETACH, '"PYTHONPATH": str(ROOT)}', '"PYTHONPATH": str(ROOT) + os.pathsep + os.environ.get("PYTHONPATH", "")}',
           "a worker takes the caller's path", _process("a7_our_processes_get_our_import_path_alone")),
    Mutant(CALLER, "    del sys.path[0]", "    pass", "the command line imports what lies there",
           f"'{_process('a7_modules_planted_in_the_current_folder_never_run')}[command line without -P]'"),
    Mutant(DETACH, "        keep_others_out()\n", "", "the daemon's files are everybody's",
           _process("a14_a_background_process_writes_for_its_owner_alone")),
    Mutant(PATHS, "    folder.mkdir(mode=0o700, parents", "    folder.mkdir(parents", "everybody may enter a home",
           _process("a14_nobody_else_can_enter_a_new_home_or_write_what_is_in_it")),
    Mutant(PATHS, "    if folder.stat().st_mode & stat.S_IWOTH:", "    if False:", "everybody may write to a home",
           _process("a14_a_home_that_anybody_may_write_is_refused")),
    Mutant(ENGINE, "        before = os.umask(0o177)", "        before = os.umask(0)", "everybody may talk to the engine",
           _process("a14_the_engines_socket_is_ours_alone")),
    Mutant(ENGINE, " or info.st_mode & 0o077:", ":", "a planted folder holds the socket",
           _process("a14_a_folder_planted_for_our_socket_is_refused")),
    Mutant(ENGINE, "        if name not in self.calls:", "        if False:", "the engine calls anything",
           "tests/jobs/test_engine.py::test_errors_are_sentences"),
    Mutant(LOCKS, "os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)", "os.O_CLOEXEC, 0o600)", "a lock follows a link",
           "tests/jobs/test_locks.py::test_a_link_is_not_followed"),
    Mutant(LOCKS, "O_NOFOLLOW, 0o600)", "O_NOFOLLOW, 0o666)", "everybody may hold a lock",
           _process("a14_locks_and_temporary_folders_are_private")),
    # --- text of others, and secrets
    Mutant(DOCUMENT, "    return html.escape(upright(str(value)), quote=True)", "    return upright(str(value))",
           "a report shows markup", _shown("report_heading-script")),
    Mutant(DOCUMENT, "    return html.escape(upright(str(value)), quote=True)",
           "    return html.escape(str(value), quote=True)", "a report turns its text", _shown("report_heading-bidi")),
    Mutant(STYLE, '.replace("<", "&lt;")', "", "a figure shows markup", _shown("figure-script")),
    Mutant(LOOKING, 'html.escape(upright(p["text"]))', 'upright(p["text"])', "a token is markup", _shown("token_view-script")),
    Mutant(ANSWERING, "{html.escape(upright(same))}", "{upright(same)}", "an answer is markup", _shown("answer-script")),
    Mutant(TEXT, '("\\\\" + c if c in "\\\\`*_{}[]<>#$|~:" else c for c in text)', "(text)", "a page reads Markdown",
           _shown("page-link")),
    Mutant(TEXT, 'return f"\'{value}" if runs else value', "return value", "a cell is a formula",
           _shown("csv_of_a_comparison-formula")),
    Mutant(TEXT, '[\\s\\u200b-\\u200f\\ufeff]*[=+', '[=+', "a cell hides a formula", _shown("csv_of_predictions-zero width")),
    Mutant(TEXT, 'hidden("".join(c if c.isprintable() else "?" for c in text))', "hidden(text)",
           "a sentence steers the terminal", _shown("sentence-terminal")),
    Mutant(TERMINAL, '    return "".join(c if c.isprintable() else "?" for c in str(value))', "    return str(value)",
           "a table steers the terminal", _shown("terminal-terminal")),
    Mutant(CARD, 'coded(json.dumps(meta[\'modifiers\']))', "json.dumps(meta['modifiers'])", "a card shows markup",
           _shown("model_card-script")),
    Mutant(STATE, '{named(facts.get(\'label\') or facts[\'method\'])}', "{facts.get('label') or facts['method']}",
           "an adapter's page shows markup", _shown("adapter_readme-script")),
    Mutant(TEXT, '    return _CREDENTIALS.sub("***", text)', "    return text", "a sentence tells a password",
           "tests/doors/test_shown.py::test_a9_passwords_of_addresses_are_hidden_in_sentences"),
    Mutant(FAILURES, 'line = hidden(" ".join(', 'line = str(" ".join(', "a failure tells a password",
           "tests/doors/test_shown.py::test_a9_passwords_of_addresses_are_hidden_in_sentences"),
    Mutant(CLIENT, '(re.sub(r"//[^/@\\s]*@", "//", said) for said in (address(), str(error)))', "(address(), str(error))",
           "a tracking address tells its password",
           "tests/tracking/test_client.py::test_an_absent_server_is_one_sentence_without_password"),
]  # fmt: skip
