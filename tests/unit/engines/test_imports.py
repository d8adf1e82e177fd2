"""The heavy library is loaded with a model, not before."""

import subprocess
import sys
import types

import pytest

from serve_app.engines.llama_cpp import binding
from serve_app.errors import ConfigError


def test_importing_the_engine_does_not_import_llama_cpp():
    code = "import sys, serve_app.engines.llama_cpp; print('llama_cpp' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_another_version_is_refused_with_the_command_to_mend_it():
    with pytest.raises(ConfigError, match=r"pip install llama-cpp-python==0\.3\.36"):
        binding.check_layout(types.SimpleNamespace(__version__="0.4.0"))
