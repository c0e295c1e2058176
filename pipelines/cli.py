"""The `charloom` command.

Everything heavy is imported by the command that needs it, so that `--help` and a wrong
flag are answered at once.
"""

from __future__ import annotations

import argparse
import os
import shlex
import signal
import sys
import tempfile
import threading
import traceback
from collections.abc import Sequence

from components.preprocess.comparison import NOTHING, Comparison
from components.task import RESTARTS_VARIABLE
from model import presets
from model.config import Config, read_config, with_overrides
from model.errors import CharloomError, InputError, RejectedError, RestartableError
from model.profiling import ProfileSteps
from model.vocab import read_words
from pipelines import cli_kubeflow, flags


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line; returns the exit code.

    0 done, 1 failed, 2 bad input, 3 rejected (by the gate, or by a limit of drift), 75 interrupted
    (SIGTERM, or a worker was lost too often), 130 Ctrl-C.
    """
    options = build_parser().parse_args(arguments)
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, _end)  # so that temporary folders are removed
    try:
        options.command(options)
    except CharloomError as error:
        return _report(error, " ".join(str(error).split()), error.exit_code, options.debug)
    except KeyboardInterrupt as stop:
        print(f"charloom: {stop}" if str(stop) else "charloom: stopped", file=sys.stderr)
        return 130
    except BrokenPipeError:
        # The reader (head, say) has enough; Python must not complain of it at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except Exception as error:
        name = type(error).__name__
        line = f"internal error: {name}: {' '.join(str(error).split())[:500]}; --debug shows where"
        return _report(error, line, 1, options.debug)
    return 0


def _end(number: int, _: object) -> None:
    raise SystemExit(128 + number)


def _report(error: BaseException, line: str, code: int, debug: bool) -> int:
    if debug:
        traceback.print_exception(error)
    sys.stdout.flush()
    print(f"charloom: {line}", file=sys.stderr, flush=True)
    return code


def _import_tensorflow() -> None:
    """Hides what TensorFlow's C++ parts print while they load; shows it if loading fails."""
    sys.stderr.flush()
    with tempfile.TemporaryFile() as file:
        saved = os.dup(2)
        os.dup2(file.fileno(), 2)
        try:
            import tensorflow
            import tensorflow_text  # noqa: F401 (registers ops of exported models)

            tensorflow.constant(0)  # the devices are looked for here
        except Exception:
            file.seek(0)
            os.write(saved, file.read())
            raise
        finally:
            os.dup2(saved, 2)
            os.close(saved)


def _config(options: argparse.Namespace) -> Config:
    """Returns the preset or config file with the overrides of the command line."""
    config = read_config(options.config) if options.config else presets.get_preset(options.preset)
    return with_overrides(config, [*options.set, *flags.data_settings(options)])


def _refuse_sections(settings: Sequence[str], command: str, *, allowed: Sequence[str]) -> None:
    """Raises InputError for a setting that a command would not use."""
    for setting in settings:
        section = setting.split(".")[0].strip()
        if section not in allowed:
            raise InputError(
                f"--set {setting} has no effect on charloom {command}, which takes fields of "
                f"{', '.join(allowed)}; set it where the folder is made"
            )


def _prepare(options: argparse.Namespace) -> None:
    config, comparison = _config(options), flags.read_comparison(options)
    _import_tensorflow()
    from components.preprocess.main import run

    comparison.check_other(config.data)
    run(
        inputs=options.input,
        train=options.train,
        valid=options.valid,
        test=options.test,
        vocab=options.vocab,
        records=options.records,
        config=config.data,
        beam_workers=options.beam_workers,
        beam_options=shlex.split(options.beam_options),
    )
    comparison.apply(options.records)


def _train(options: argparse.Namespace) -> None:
    config = _config(options)
    _refuse_sections(options.set, "train", allowed=("model", "train", "gate"))
    profile = ProfileSteps.parse(options.profile) if options.profile is not None else None
    _import_tensorflow()
    from components.train.main import run

    result = run(
        records=options.records,
        workdir=options.workdir,
        config=config,
        workers=options.workers,
        profile=profile,
        max_restarts=options.max_restarts,
        peer_seconds=options.peer_seconds,
        stall_seconds=options.stall_seconds,
    )
    value = result["valid_perplexity"]
    reached = f", validation perplexity {value:.2f}" if value else ""
    print(f"trained: best checkpoint {result['checkpoint']}{reached}")


def _evaluate(options: argparse.Namespace) -> None:
    path = os.path.join(options.workdir, "config.json")
    if not os.path.exists(path):
        raise InputError(f"{options.workdir} holds no training; run charloom train")
    config = with_overrides(read_config(path), options.set)
    _refuse_sections(options.set, "evaluate", allowed=("gate",))
    _import_tensorflow()
    from components.evaluate.main import run

    report = options.report or os.path.join(options.workdir, "report")
    result = run(records=options.records, workdir=options.workdir, report=report, config=config)
    verdict = result["verdict"]
    if verdict["status"] != "PASSED":
        raise RejectedError(f"REJECTED: {'; '.join(verdict['reasons'])}")


def _export(options: argparse.Namespace) -> None:
    _import_tensorflow()
    from components.export.main import run

    run(
        records=options.records,
        workdir=options.workdir,
        report=options.report or os.path.join(options.workdir, "report"),
        registry=options.registry,
        name=options.name,
    )


def _query(options: argparse.Namespace) -> None:
    from components.export.registry import find_model

    path = find_model(options.model)
    _import_tensorflow()
    from pipelines import query

    model = query.load(path)
    if options.verb == "next":
        query.print_next_words(model, options.text, k=options.k)
        return
    texts = query.read_texts(options.text, options.input)
    if options.verb == "score":
        query.print_scores(model, texts, form=options.format)
    else:
        query.print_embeddings(model, texts)


def _run(options: argparse.Namespace) -> None:
    # Of no meaning on a cluster, so it is no argument of the graph.
    os.environ[RESTARTS_VARIABLE] = str(options.max_restarts)
    _run_graph(
        options.input,
        root=options.root,
        config=_config(options),
        workers=options.workers,
        name=options.name,
        vocab=options.vocab,
        comparison=flags.read_comparison(options),
    )


def _run_graph(
    inputs: Sequence[str],
    *,
    root: str,
    config: Config,
    workers: int,
    name: str,
    vocab: str = "",
    comparison: Comparison = NOTHING,
) -> str:
    """Runs the pipeline and says where its parts are; returns the new version's folder."""
    from components.preprocess.sources import find_files

    find_files(inputs)  # so that a wrong name is told at once
    if vocab:
        read_words(vocab)
    from pipelines.local import run_pipeline

    try:
        result = run_pipeline(
            inputs=inputs,
            root=root,
            config=config,
            workers=workers,
            model_name=name,
            vocab=vocab,
            comparison=comparison,
        )
    except RestartableError as error:
        raise RestartableError(
            f"{error} (then charloom evaluate and export; charloom run begins anew)"
        ) from None
    print(f"records:  {result.records}")
    print(f"workdir:  {result.workdir}")
    print(f"report:   {result.report_html}")
    if result.registry_version is None:
        raise RejectedError(f"REJECTED: {'; '.join(result.reasons)}")
    print(f"verdict:  {result.verdict}")
    print(f"registry: {result.registry_version}", flush=True)
    return result.registry_version


def _demo(options: argparse.Namespace) -> None:
    from pipelines.demo import EXAMPLE, write_corpus

    config = _config(options)
    corpus = write_corpus(os.path.join(options.root, "corpus"))
    version = _run_graph(
        [os.path.join(corpus, "*.txt")],
        root=options.root,
        config=config,
        workers=options.workers,
        name="demo",
    )
    _import_tensorflow()
    from pipelines import query

    print(f'charloom next --model {version} "{EXAMPLE}"')
    query.print_next_words(query.load(version), EXAMPLE, k=5)


def _tensorboard(options: argparse.Namespace) -> None:
    from pipelines.tensorboard import find_logdir, serve

    logdir = find_logdir(options.workdir)
    _import_tensorflow()
    serve(logdir, host=options.host, port=options.port)


def _compile(options: argparse.Namespace) -> None:
    from pipelines.compile import compile_pipeline

    compile_pipeline(options.output, **flags.compile_settings(options))
    print(f"wrote {options.output}")


class _Version(argparse.Action):
    """Looks the version up only when it is asked for."""

    def __call__(self, *unused: object) -> None:
        from importlib.metadata import version

        print(f"charloom {version('charloom')}")
        raise SystemExit(0)


def build_parser() -> argparse.ArgumentParser:
    """Returns the parser of all commands."""
    parser = argparse.ArgumentParser(
        prog="charloom",
        description="Train, evaluate and export language models that read words and characters.",
        epilog="exit codes: 0 done, 1 failed, 2 bad input, 3 rejected by the gate or by a limit of "
        "drift, 75 interrupted, by SIGTERM or as a worker was lost too often, 130 stopped by Ctrl-C; "
        "after 75 and 130 a training goes on with the same command",
    )
    parser.add_argument("--debug", action="store_true", help="show tracebacks")
    parser.add_argument("--version", action=_Version, nargs=0, help="show the version")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    _add_stages(commands)
    _add_queries(commands)
    _add_pipelines(commands)
    return parser


def _add(
    commands: argparse._SubParsersAction[argparse.ArgumentParser],
    name: str,
    function: object,
    text: str,
) -> argparse.ArgumentParser:
    parser = commands.add_parser(name, help=text, description=text)
    parser.set_defaults(command=function)
    parser.add_argument(
        "--debug", action="store_true", default=argparse.SUPPRESS, help="show tracebacks"
    )
    return parser


def _add_stages(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    prepare = _add(commands, "prepare", _prepare, "Turn raw text into records.")
    flags.add_input(prepare, splits=True)
    flags.add_vocab(prepare)
    prepare.add_argument("--records", required=True, metavar="DIR", help="folder to make")
    flags.add_comparison(prepare)
    flags.add_beam(prepare)
    flags.add_data(prepare)
    flags.add_config(prepare)

    train = _add(commands, "train", _train, "Train a model, or go on with a training.")
    flags.add_folders(train)
    flags.add_workers(train, default=1)
    flags.add_profile(train)
    flags.add_restarts(train)
    flags.add_waits(train)
    flags.add_config(train)

    evaluate = _add(
        commands, "evaluate", _evaluate, "Score the test split; exit 3 if the gate says no."
    )
    flags.add_folders(evaluate)
    flags.add_report(evaluate)
    flags.add_set(evaluate)

    export = _add(commands, "export", _export, "Publish a model that passed the gate.")
    flags.add_folders(export)
    flags.add_report(export)
    export.add_argument("--registry", required=True, metavar="DIR", help="folder of all models")
    export.add_argument("--name", default="lm", help="the model's name in it (default: lm)")

    board = _add(commands, "tensorboard", _tensorboard, "Watch trainings in a browser.")
    flags.add_tensorboard(board)


def _add_queries(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    score = _add(commands, "score", _query, "Print log-likelihood and perplexity of texts.")
    score.add_argument(
        "--format", choices=("tsv", "jsonl"), default="tsv", help="jsonl has every word's score"
    )
    embed = _add(commands, "embed", _query, "Print LSTM states of every word, as JSON lines.")
    following = _add(commands, "next", _query, "Print the likeliest next words of a text.")
    following.add_argument("-k", type=int, default=5, help="how many (default: 5)")
    for verb, parser in (("score", score), ("embed", embed), ("next", following)):
        flags.add_query(parser, verb)


def _add_pipelines(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    run = _add(commands, "run", _run, "Run the whole pipeline on this machine.")
    flags.add_input(run)
    flags.add_vocab(run)
    run.add_argument("--root", required=True, metavar="DIR", help="folder for all that is made")
    run.add_argument("--name", default="lm", help="the model's name in the registry (default: lm)")
    flags.add_comparison(run)
    flags.add_workers(run, default=2)
    flags.add_restarts(run)
    flags.add_data(run)
    flags.add_config(run)

    demo = _add(commands, "demo", _demo, "Run the whole pipeline on text that Python carries.")
    demo.add_argument(
        "--root", default="charloom-demo", metavar="DIR", help="folder (default: charloom-demo)"
    )
    flags.add_workers(demo, default=2)
    flags.add_config(demo)

    compiler = _add(commands, "compile", _compile, "Write the pipeline as YAML for Kubeflow.")
    flags.add_compile(compiler)
    cli_kubeflow.add_commands(_add, commands)


if __name__ == "__main__":
    sys.exit(main())
