"""python -m alexnet_dist.serve: a page on this machine that says what is on an image, and the same for programs."""

import argparse
import sys
from pathlib import Path

from alexnet_dist import cli
from alexnet_dist.errors import UserError
from alexnet_dist.predictor import Predictor

PACKAGES = ("uvicorn", "starlette", "h11", "anyio")


def build_parser() -> cli.Parser:
    """The flags of alexnet-serve."""
    parser = cli.Parser(
        "alexnet-serve",
        "A web page on this machine: drop an image, see its classes and what the network has looked at. And for programs:\n"
        "POST /predict takes the bytes of an image and answers JSON, GET /health says that it is there.",
        "example: alexnet-serve --load runs/alexnet\n"
        "         curl --data-binary @photo.jpg 'http://127.0.0.1:8000/predict?topk=3'",
    )
    add = parser.add_argument
    add(
        "--load",
        required=True,
        type=Path,
        metavar="RUN",
        help="a checkpoint, torchvision's weights, or a run's folder",
    )
    add("--host", default="127.0.0.1", help="the address to listen at (default: %(default)s, this machine alone)")
    add("--port", type=int, default=8000, help="the port; 0 takes a free one (default: %(default)s)")
    add("--batch-size", type=int, default=8, metavar="N", help="images in one pass, of those that wait (default: 8)")
    add("--queue", type=int, default=32, metavar="N", help="images that may wait; more get 503 (default: %(default)s)")
    add("--max-megabytes", type=int, default=16, metavar="MB", help="size of an image's file (default: %(default)s)")
    add("--upload-seconds", type=int, default=20, metavar="S", help="in which an image must arrive (default: 20)")
    add("--threads", type=int, metavar="N", help="threads (default: one a core)")
    return parser


def body(args: argparse.Namespace) -> int:
    """Serves until it is stopped."""
    cli.require_positive(args, "batch_size", "queue", "max_megabytes", "upload_seconds", "threads")
    try:  # imported here, so that --help and mistakes need neither
        from alexnet_dist.serving import app, guard, server, uploads
    except ModuleNotFoundError as error:
        if error.name not in PACKAGES:
            raise
        raise UserError(f"this needs {error.name}: pip install 'alexnet_dist[serve]'") from error

    with (
        server.listen(args.host, args.port) as listening,
        Predictor(args.load, batch_size=args.batch_size, threads=args.threads) as net,
    ):
        settings = app.Settings(
            batch=args.batch_size,
            waiting=args.queue,
            decoders=net.threads,
            loopback=guard.is_loopback(listening.getsockname()[0]),
            limits=uploads.Limits(args.max_megabytes * 1_000_000, args.upload_seconds),
        )
        announce(args, listening.getsockname()[:2], settings.loopback)
        server.run(app.create_app(app.model_of(net, args.load.resolve().name), settings), listening)
    print("alexnet-serve: ended")
    return 0


def announce(args: argparse.Namespace, address: tuple[str, int], loopback: bool) -> None:
    """Says where the page is, and who can see it."""
    host, port = address
    name = f"[{host}]" if ":" in host else host
    print(f"{args.load} at http://{name}:{port}/ (Ctrl-C ends it)", flush=True)
    if not loopback:
        print(
            f"alexnet-serve: warning: --host {args.host} listens beyond this machine, without password or encryption: "
            "whoever reaches it can use it. See docs/security.md",
            file=sys.stderr,
        )


def main(argv: list[str] | None = None) -> int:
    """The program; returns its exit code."""
    return cli.run(build_parser(), argv, body)


if __name__ == "__main__":
    raise SystemExit(main())
