import shutil
from pathlib import Path

from setuptools import find_packages, setup
from setuptools.command.build_py import build_py

ROOT = Path(__file__).parent
VERSION: dict = {}
exec((ROOT / 'mmrecnext/version.py').read_text(), VERSION)


class BuildWithConfigs(build_py):
    """Ships configs and tools in ``mmrecnext/.mim``, where OpenMIM looks for them.

    An editable install needs no copy: there they stand beside the package.
    """

    def run(self):
        super().run()
        if self.editable_mode:
            return
        mim = Path(self.build_lib, 'mmrecnext', '.mim')
        for folder in ('configs', 'tools'):
            shutil.copytree(
                ROOT / folder,
                mim / folder,
                ignore=shutil.ignore_patterns('__pycache__'),
                dirs_exist_ok=True,
            )
        shutil.copy(ROOT / 'model-index.yml', mim)


# Not in `install_requires`: `mmcv` (compiled) and `mmcv-lite` (extra `lite`) are two
# distributions of one package, and pip cannot ask for either.
DETECTION = ['mmdet>=3.1.0,<3.4.0']
SEGMENTATION = ['mmsegmentation>=1.1.0,<1.3.0', 'ftfy', 'regex']
TIMM = ['timm>=1.0.0', 'safetensors']

setup(
    name='mmrecnext',
    version=VERSION['__version__'],
    description='RecNeXt backbones for OpenMMLab',
    long_description=(ROOT / 'README.md').read_text(),
    long_description_content_type='text/markdown',
    license='Apache-2.0',
    python_requires='>=3.10,<3.14',
    packages=find_packages(include=['mmrecnext', 'mmrecnext.*']),
    py_modules=['mmrecnext_autoload'],
    include_package_data=True,
    cmdclass={'build_py': BuildWithConfigs},
    entry_points={'torch.backends': ['mmrecnext = mmrecnext_autoload:install']},
    install_requires=[
        'torch>=2.7',
        'torchvision>=0.22',
        'mmengine>=0.10.5,<0.11',
        'numpy',
        'rich',
        'setuptools<81',  # MMEngine resolves `mmdet::` configs through pkg_resources
    ],
    extras_require={
        'det': DETECTION,
        'seg': SEGMENTATION,
        'timm': TIMM,
        'lite': ['mmcv-lite>=2.0.0,<2.2.0'],
        'dev': ['pytest', 'pytest-timeout', 'pytest-xdist', 'ruff'],
        'all': [*DETECTION, *SEGMENTATION, *TIMM],
    },
    classifiers=[
        'License :: OSI Approved :: Apache Software License',
        'Programming Language :: Python :: 3',
        'Programming Language :: Python :: 3.10',
        'Programming Language :: Python :: 3.11',
        'Programming Language :: Python :: 3.12',
        'Programming Language :: Python :: 3.13',
    ],
)
