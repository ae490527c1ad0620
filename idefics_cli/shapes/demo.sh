#!/bin/sh
# What `make demo` shows: every task on pictures that another program drew, offline. BIN is where `idefics` is installed.
set -eu
cd "$(dirname "$0")/samples"
idefics="${BIN:-.venv/bin}/idefics"
export IDEFICS_MODEL=shapes HF_HUB_OFFLINE=1

show() {
    printf '\n$ idefics'
    for word in "$@"; do
        case $word in *[!a-zA-Z0-9_./,@=-]*) printf ' "%s"' "$word" ;; *) printf ' %s' "$word" ;; esac
    done
    printf '\n'
    "$idefics" "$@"
}

printf 'Pictures: %s\nModel: shapes, which is built in and knows plain coloured shapes.\n' "$PWD"
show caption red-circle.png blue-star.png green-triangle.png two-shapes.jpg three-shapes.png blank.png
show caption blue-star.png --prompt "This is an image of"
show vqa two-shapes.jpg -q "What colour is the square?" -q "Is the circle left of the square?" -q "How many shapes are there?"
show classify green-triangle.png --labels circle,square,triangle,star --top 2
show write three-shapes.png
show run describe red-circle.png --examples examples.yaml
show run dialogue blue-star.png --style chat --examples conversation.yaml --set "message=And what is in this image?"
