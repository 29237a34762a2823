"""Completion of words in a shell: a script with all names in it, so that a Tab waits for no import."""

from __future__ import annotations

import argparse
from argparse import Namespace

from verisal.cli._configs import shipped_configs
from verisal.cli._help import COMMANDS, STAGES, options_of
from verisal.cli._parsers import (
    SHELLS,
    check_parser,
    completion_parser,
    configs_parser,
    export_parser,
    runs_parser,
)

_BASH = """\
# Completion of verisal. For this terminal: source <(verisal completion {shell})
{head}_verisal() {{
    local current=${{COMP_WORDS[COMP_CWORD]}} before=${{COMP_WORDS[COMP_CWORD-1]}}
    local words="" start=""
    # --config=NAME is three words in bash, of which the last is completed, and one in zsh.
    if [[ $current == --*=* ]]; then
        before=${{current%%=*}} start=${{current%%=*}}=
        current=${{current#*=}}
    elif [[ $current == "=" ]]; then
        current=""
    elif [[ $before == "=" ]]; then
        before=${{COMP_WORDS[COMP_CWORD-2]}}
    fi
    # Files and folders are those that start with PREFIX in zsh.
    COMPREPLY=()
    if ((COMP_CWORD == 1)); then
        COMPREPLY=($(compgen -W "{commands} --help --version" -- "$current"))
        return
    fi
    case $before in
        --config | -c)
            words="{configs} $(compgen -G "runs/*/*/config.yaml")"
            COMPREPLY=(
                $(compgen -P "$start" -W "$words" -- "$current")
                $(PREFIX=$current; compgen -P "$start" -f -X "!*.y*ml" -- "$current")
            )
            return ;;
        --run_dir | --detector | --model)
            COMPREPLY=(
                $(compgen -P "$start" -W "$(compgen -G "runs/*/*")" -- "$current")
                $(PREFIX=$current; compgen -P "$start" -d -- "$current")
            )
            return ;;
        --resume) words="auto never $(compgen -G "runs/*/*/checkpoints/*.ckpt")" ;;
        --ckpt_path) words="none $(compgen -G "runs/*/*/checkpoints/*.ckpt")" ;;
        --wandb.mode) words="auto online offline disabled" ;;
        --trainer.accelerator) words="auto cpu gpu" ;;
        --device) words="auto cpu cuda" ;;
        --test_after_fit) words="true false" ;;
{values}    esac
    if [[ -z $words ]]; then
        case ${{COMP_WORDS[1]}} in
{cases}        esac
        # Words that start with no dash are places; where there are none the shell offers files.
        if [[ $current != -* ]]; then
            case ${{COMP_WORDS[1]}} in
{places}            esac
        fi
    fi
    COMPREPLY=($(compgen -P "$start" -W "$words" -- "$current"))
}}
complete -o bashdefault -o default -F _verisal verisal
"""
_ZSH_HEAD = """\
(( $+functions[compdef] )) || { autoload -U compinit && compinit; }
autoload -U bashcompinit && bashcompinit
"""


def show_completion(given: Namespace) -> int:
    """Run ``verisal completion``.

    Args:
        given: what its parser read.

    Returns:
        0.
    """
    print(completion(given.shell), end="")
    return 0


def completion(shell: str) -> str:
    """Script that completes commands, their options, names of configs, and folders of runs.

    Args:
        shell: ``bash``, or ``zsh``, which reads the same script with its own emulation.
    """
    check = check_parser()
    parsers = {
        "data": check,
        "export": export_parser(),
        "configs": configs_parser(),
        "runs": runs_parser(),
        "completion": completion_parser(),
    }
    places = {
        "explain": "",
        "data": "$( ((COMP_CWORD == 2)) && echo check)",
        "export": '$(compgen -G "runs/*/*")',
        "configs": " ".join(shipped_configs()),
        "runs": '$(cd runs 2>/dev/null && compgen -G "*")',
        "completion": " ".join(SHELLS),
    }
    words = {command: " ".join(options_of(command)) for command in (*STAGES, "explain")}
    words |= {name: " ".join(_options(parser)) for name, parser in parsers.items()}
    cases = "".join(f"            {name}) words={_quoted(words[name])} ;;\n" for name in COMMANDS)
    shown = "".join(f"                {name}) words={_quoted(place)} ;;\n" for name, place in places.items())
    values = "".join(
        f"        {option}) words={_quoted(' '.join(map(str, choices)))} ;;\n"
        for option, choices in _choices(check).items()
    )
    return _BASH.format(
        shell=shell,
        head=_ZSH_HEAD if shell == "zsh" else "",
        commands=" ".join(COMMANDS),
        configs=" ".join(shipped_configs()),
        values=values,
        cases=cases,
        places=shown,
    )


def _options(parser: argparse.ArgumentParser) -> list[str]:
    return [name for action in parser._actions for name in action.option_strings if name.startswith("--")]


def _choices(parser: argparse.ArgumentParser) -> dict[str, list[str]]:
    """Options that take one of a few words."""
    return {
        action.option_strings[0]: list(action.choices)
        for action in parser._actions
        if action.option_strings and action.choices is not None
    }


def _quoted(words: str) -> str:
    """Words in double quotes, in which a shell fills in what stands in ``$()``, quotes and all."""
    return f'"{words}"'
