"""A stage that declares too little."""

VERSION = 1
