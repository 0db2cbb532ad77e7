"""How Sphinx makes pages of what `refusal.run.site` wrote. Nothing on them comes from outside."""

project = "How language models represent harm and refusal"
html_title = project
author = ""
copyright = "texts and figures CC BY 4.0, code MIT"
language = "en"

extensions = ["myst_nb"]
nb_execution_mode = "off"
nb_ipywidgets_js = {}  # they would come from outside
nb_merge_streams = True
myst_heading_anchors = 3
suppress_warnings = ["myst.header", "misc.highlighting_failure"]

html_theme = "sphinx_book_theme"
html_static_path = ["static"]
html_css_files = ["site.css"]
html_js_files = [("ledger.js", {"defer": "defer"})]
html_copy_source = False
html_show_sourcelink = False
html_show_search_summary = False  # a page opened from a folder may not read other files
html_context = {"default_mode": "auto"}
html_theme_options = {
    "use_download_button": False,
    "use_fullscreen_button": False,
    "navbar_persistent": [],
    "show_toc_level": 1,
}
