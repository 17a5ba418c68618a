# The commands of every day, the ones that CI runs too. Each takes STACK=onedl: the fork of
# OpenMMLab's packages, in an environment of its own.
PYTHON ?= python3
STACK ?= openmmlab
ifeq ($(STACK),openmmlab)
VENV ?= .venv
REQUIREMENTS = requirements/dev.txt
else ifeq ($(STACK),onedl)
VENV ?= .venv-onedl
REQUIREMENTS = requirements/dev-onedl.txt
else
$(error there is no STACK=$(STACK); they are openmmlab and onedl)
endif
BIN = $(VENV)/bin
PY = $(BIN)/python

.PHONY: help env data demo demo-seg demo-pose test-fast test coverage lint api clean

help:  ## list the commands
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 12

env: $(VENV)/.ready  ## make the environment in .venv, from pinned requirements

$(VENV)/.ready: $(wildcard requirements/*.txt) pyproject.toml setup.py
	$(PYTHON) -m venv $(VENV)
	$(PY) -m pip install --quiet -r $(REQUIREMENTS)
ifeq ($(STACK),openmmlab)
	$(PY) -m pip install --quiet --no-deps -r requirements/cls.txt
	$(PY) -m pip install --quiet --no-deps -r requirements/pose.txt || \
	    echo 'MMPose is not installed (a C compiler builds a part): its tests are left out'
endif
	$(PY) -m pip install --quiet --no-deps --no-build-isolation --editable .
	touch $@

data: env  ## draw the shapes of the demos into data/shapes
	$(PY) tools/make_shapes_data.py data/shapes --size 320 --train 1000 --val 60 \
	    --objects 2-5 --sides 17-40

# Train a config in two processes and evaluate; draw what it predicts of held-out pictures
# of the data named, above a score.
define run_demo
PYTHON=$(PY) tools/dist_train.sh configs/$(1).py 2
$(PY) tools/infer.py configs/$(1).py "$$(cat work_dirs/$(notdir $(1))/last_checkpoint)" \
    data/$(2)/val2017 --out-dir work_dirs/$(notdir $(1))/pictures --sheet 6 \
    --score-thr $(3)
@echo "pictures: work_dirs/$(notdir $(1))/pictures, six of them in sheet.png"
endef

demo: data  ## train, evaluate and draw Mask R-CNN on the shapes
	$(call run_demo,mask_rcnn_recnext_m0_shapes,shapes,0.7)

demo-seg: data  ## train, evaluate and draw Semantic FPN on the shapes
	$(call run_demo,sem_fpn_recnext_m0_shapes,shapes,0.7)

demo-pose: env  ## train, evaluate and draw a pose estimator on stick figures
	$(PY) tools/make_stick_figures_data.py data/stick --train 3000 --val 100 \
	    --sides 75-100
	$(call run_demo,pose/td-hm_recnext-m0_stick,stick,0.2)

test-fast: env  ## run one case of each quick test, in two to three minutes
	$(PY) -m pytest -m "not slow" --numprocesses auto --dist loadfile --no-loadscope-reorder

test: env  ## run all tests
	$(PY) -m pytest --numprocesses auto --dist loadfile --no-loadscope-reorder

coverage: env  ## run the quick tests and tell which lines of the package they reach
	$(PY) -m pytest -m "not slow" --numprocesses auto --dist loadfile --no-loadscope-reorder \
	    --cov --cov-report term

lint: env  ## check style, formatting and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

api: env  ## write docs/api.md, the public names, from the docstrings
	$(PY) docs/make_api.py

clean:  ## remove the environment, caches and run output
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .ruff_cache .mypy_cache work_dirs
